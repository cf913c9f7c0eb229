"""Mathematical equality by math-verify."""

from __future__ import annotations

import importlib.util
import logging
import unicodedata
from functools import lru_cache
from typing import Any

from gradalign.errors import MissingDependencyError
from gradalign.tasks.base import Question
from gradalign.verifiers.base import VERIFIERS, FunctionVerifier, Verifier
from gradalign.verifiers.boxed import last_boxed
from gradalign.verifiers.builtin import no_argument


@VERIFIERS.register("math")
def math(argument: str) -> Verifier:
    """The last boxed answer equals the row's answer as mathematics (math-verify).

    A response without a closed box has given no answer. There is no time limit here: run it in
    a `VerifierPool`.

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
    given = last_boxed(text)
    if given is None or not given.strip():
        return 0.0
    gold = _ascii_digits((question.answer or "").strip())
    given = _ascii_digits(given.strip())
    return 1.0 if given == gold else _equal(gold, given)


# Many responses to one question give the same few answers.
@lru_cache(maxsize=1 << 14)
def _equal(gold: str, given: str) -> float:
    parsed_gold = _parse(gold)
    parsed_given = _parse(given)
    if not parsed_gold or not parsed_given:
        return 0.0
    from math_verify import verify

    # The order matters: math-verify treats gold and answer differently.
    return float(bool(verify(list(parsed_gold), list(parsed_given), timeout_seconds=None)))


@lru_cache(maxsize=1024)
def _parse(expression: str) -> tuple[Any, ...]:
    # math-verify warns that its own timeout, an alarm in this process, is off: the pool has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse

    return tuple(parse(f"\\boxed{{{expression}}}", parsing_timeout=None))


def _ascii_digits(text: str) -> str:
    """Write every decimal digit of any script as 0 to 9."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(character)) if character.isdecimal() else character
        for character in text
    )
