"""The verifier `exact`: the response is the answer."""

from __future__ import annotations

from gradalign.questions import Question
from gradalign.verifiers.base import FunctionVerifier, Verifier, no_argument
from gradalign.verifiers.registry import VERIFIERS


@VERIFIERS.register("exact")
def exact(argument: str) -> Verifier:
    """Whole response equals the answer, both without surrounding blanks."""
    no_argument("exact", argument)
    return FunctionVerifier(_equal, needs_answer=True, in_process=True)


def _equal(text: str, question: Question) -> float:
    return float(text.strip() == (question.answer or "").strip())
