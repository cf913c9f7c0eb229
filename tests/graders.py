"""Verifiers that tests name as `tests.graders:NAME`, also in processes that tests start."""

from __future__ import annotations

from gradalign.questions import Question


def by_question(text: str, question: Question) -> float:
    """Right or wrong by the question alone: no token decides anything."""
    assert isinstance(question.prompt, str)
    return float(len(question.prompt) + ord(question.prompt[-2]) & 1)
