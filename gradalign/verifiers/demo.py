"""The verifier `demo:addition`: the scorer of the bundled task."""

from __future__ import annotations

from gradalign.demo.addition import verify
from gradalign.errors import UnknownNameError
from gradalign.verifiers.base import FunctionVerifier, Verifier
from gradalign.verifiers.registry import VERIFIERS


@VERIFIERS.register("demo")
def demo(argument: str) -> Verifier:
    """Scorer of the bundled addition task."""
    if argument.partition(":")[0] != "addition":
        raise UnknownNameError(f"unknown verifier 'demo:{argument}'.", "Known: demo:addition.")
    return FunctionVerifier(
        lambda text, question: verify(text, question.answer or ""),
        needs_answer=True,
        in_process=True,
    )
