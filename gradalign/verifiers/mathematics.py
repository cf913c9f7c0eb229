"""The verifier `math`: mathematical equality by math-verify."""

from __future__ import annotations

import importlib.util
import logging
import re
from functools import lru_cache, partial
from typing import Any

from gradalign.errors import MissingDependencyError, UsageError
from gradalign.questions import Question
from gradalign.verifiers.base import NOTHING, FunctionVerifier, Scored, Verifier
from gradalign.verifiers.reading.answers import Answer, find_answer
from gradalign.verifiers.reading.boxed import last_boxed
from gradalign.verifiers.reading.expression import exact_part, plain_number, rewrite, without_units
from gradalign.verifiers.reading.response import spoken
from gradalign.verifiers.registry import VERIFIERS


@VERIFIERS.register("math")
def math(argument: str) -> Verifier:
    r"""The response's answer equals the row's as mathematics (math-verify).

    `gradalign.verifiers.reading.answers` says which part of a response is its answer, and
    `gradalign.verifiers.reading.expression` how an answer is rewritten before it is compared. What
    counts is the text after a thinking part. With `math:boxed` only the last \boxed counts, and a
    response without a closed one has no answer. There is no time limit here: run it in a
    `VerifierPool`.

    Raises:
        UsageError: an option other than `boxed`.
        MissingDependencyError: math-verify is not installed.
    """
    if argument not in ("", "boxed"):
        raise UsageError(
            f"verifier math takes no argument {argument!r}.",
            "Write math, or math:boxed, by which only what is in \\boxed{} is an answer.",
        )
    if importlib.util.find_spec("math_verify") is None:
        raise MissingDependencyError(
            "the verifier math needs math-verify.", "Install it: pip install 'gradalign[tasks]'."
        )
    return FunctionVerifier(partial(_math_reward, argument == "boxed"), needs_answer=True)


def _math_reward(strict: bool, text: str, question: Question) -> Scored:
    answer = _boxed_answer(text) if strict else _answer(text, question)
    if answer.text is None or not answer.text.strip():
        return Scored(0.0, None, NOTHING)
    try:
        equal = _math_equal(answer.text, question.answer or "")
    except (ImportError, MemoryError):  # of the machine, and not of the response
        raise
    except Exception:
        equal = 0.0  # sympy stumbles in many ways over what is no mathematics: a wrong answer
    return Scored(equal, answer.text, answer.rule)


def _boxed_answer(text: str) -> Answer:
    said = spoken(text)
    return Answer(None if said is None else last_boxed(said), "boxed")


_IN_A_WORD = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*")


def _answer(text: str, question: Question) -> Answer:
    said = spoken(text)
    if said is None:
        return Answer(None, NOTHING)
    gold = _TEXT_COMMAND.sub(r"\1", question.answer or "").strip(" .$")
    prompt = question.prompt
    asked = prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
    return find_answer(said, asked, words=_IN_A_WORD.fullmatch(gold) is not None)


_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox)\s?\{([^{}]*)\}")


def _math_equal(inside: str, answer: str) -> float:
    gold = rewrite(answer)
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
