"""The verifier `math`: mathematical equality by math-verify."""

from __future__ import annotations

import importlib.util
import logging
import re
from functools import lru_cache
from typing import Any

from gradalign.errors import MissingDependencyError
from gradalign.questions import Question
from gradalign.verifiers.base import FunctionVerifier, Verifier, no_argument
from gradalign.verifiers.boxed import last_boxed
from gradalign.verifiers.expression import exact_part, plain_number, rewrite, without_units
from gradalign.verifiers.registry import VERIFIERS
from gradalign.verifiers.response import spoken


@VERIFIERS.register("math")
def math(argument: str) -> Verifier:
    """The last boxed answer equals the row's answer as mathematics (math-verify).

    `gradalign.verifiers.expression` has the rules by which an answer is rewritten first. What
    counts is the text after a thinking part; without a closed box it has no answer. There is no
    time limit here: run it in a `VerifierPool`.

    Raises:
        MissingDependencyError: math-verify is not installed.
    """
    no_argument("math", argument)
    if importlib.util.find_spec("math_verify") is None:
        raise MissingDependencyError(
            "the verifier math needs math-verify.", "Install it: pip install 'gradalign[tasks]'."
        )
    return FunctionVerifier(_math_reward, needs_answer=True)


def _math_reward(text: str, question: Question) -> float:
    try:
        return _math_equal(text, question)
    except (ImportError, MemoryError):  # of the machine, and not of the response
        raise
    except Exception:
        return 0.0  # sympy stumbles in many ways over what is no mathematics: a wrong answer


def _math_equal(text: str, question: Question) -> float:
    said = spoken(text)
    inside = None if said is None else last_boxed(said)
    if inside is None or not inside.strip():
        return 0.0
    gold = rewrite(question.answer or "")
    given = exact_part(rewrite(inside), gold)
    if given is None:
        return 0.0
    if given == gold:
        return 1.0
    true, said_number = plain_number(gold), plain_number(given)
    whole = true is not None and said_number is not None and not (true[1] or said_number[1])
    if whole or (true is not None and true == said_number):
        return float(true == said_number)  # without the library: it may have thousands of digits
    return _equal(without_units(gold, gold), without_units(given, gold), _places(gold, given))


_LEADING_ZEROS = re.compile(r"[-+]?0*\.(0+)[1-9]")


def _places(*numbers: str) -> int:
    """Return to how many places decimals are compared: six digits that count."""
    zeros = [match[1] for number in numbers if (match := _LEADING_ZEROS.match(number))]
    return 6 + max(map(len, zeros), default=0)


# Many responses to one question give the same few answers.
@lru_cache(maxsize=1 << 14)
def _equal(gold: str, given: str, places: int) -> float:
    parsed_gold = _parse(gold)
    parsed_given = _parse(given)
    if not parsed_gold or not parsed_given:
        return 0.0
    from math_verify import verify

    # The order matters: math-verify treats gold and answer differently.
    return float(
        bool(
            verify(
                list(parsed_gold), list(parsed_given), float_rounding=places, timeout_seconds=None
            )
        )
    )


@lru_cache(maxsize=1024)
def _parse(expression: str) -> tuple[Any, ...]:
    # math-verify warns that its own timeout, an alarm in this process, is off: the pool has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse

    return tuple(parse(f"\\boxed{{{expression}}}", parsing_timeout=None))
