"""The verifier `regex`: what a pattern finds in the response is the answer."""

from __future__ import annotations

import re
from functools import partial

from gradalign.errors import UsageError
from gradalign.questions import Question
from gradalign.verifiers.base import FunctionVerifier, Verifier
from gradalign.verifiers.registry import VERIFIERS


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
