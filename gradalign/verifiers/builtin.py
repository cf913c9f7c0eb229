"""Verifiers that compare text, exact and regex, and those that belong to tasks."""

from __future__ import annotations

import re
from functools import partial

from gradalign.errors import UnknownNameError, UsageError
from gradalign.questions import Question
from gradalign.verifiers.base import VERIFIERS, FunctionVerifier, Verifier


def no_argument(name: str, argument: str) -> None:
    """Refuse `name:something` for a verifier without options."""
    if argument:
        raise UsageError(f"verifier {name} takes no argument, got {argument!r}.", f"Write {name}.")


@VERIFIERS.register("exact")
def exact(argument: str) -> Verifier:
    """Whole response equals the answer, both without surrounding blanks."""
    no_argument("exact", argument)
    return FunctionVerifier(_equal, needs_answer=True, in_process=True)


def _equal(text: str, question: Question) -> float:
    return float(text.strip() == (question.answer or "").strip())


@VERIFIERS.register("regex")
def regex(argument: str) -> Verifier:
    """Group 1 of the pattern's last match equals the answer, both without surrounding blanks.

    Raises:
        UsageError: no pattern, a malformed one, or one without a group.
    """
    if not argument:
        raise UsageError("verifier regex has no pattern.", "Write regex:PATTERN.")
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise UsageError(f"verifier regex:{argument}: {error}.", "Repair the pattern.") from None
    if not pattern.groups:
        raise UsageError(
            f"verifier regex:{argument} has no group.", "Put what is the answer in parentheses."
        )
    return FunctionVerifier(partial(_regex_equal, pattern), needs_answer=True)


def _regex_equal(pattern: re.Pattern[str], text: str, question: Question) -> float:
    found = None
    for match in pattern.finditer(text):
        found = match.group(1)
    return float(found is not None and found.strip() == (question.answer or "").strip())


@VERIFIERS.register("demo")
def demo(argument: str) -> Verifier:
    """Scorer of the bundled addition task."""
    from gradalign.demo.addition import verify

    if argument.partition(":")[0] != "addition":
        raise UnknownNameError(f"unknown verifier 'demo:{argument}'.", "Known: demo:addition.")
    return FunctionVerifier(
        lambda text, question: verify(text, question.answer or ""),
        needs_answer=True,
        in_process=True,
    )
