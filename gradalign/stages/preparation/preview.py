"""The exact prompts of a run, before it: what `--print-prompts` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradalign.config import ScoreConfig
from gradalign.models.prompts.texts import whole_text
from gradalign.stages.preparation.preflight import check


@dataclass(frozen=True)
class PromptView:
    """One prompt as a model reads it.

    Attributes:
        question_id: the question.
        reader: "student" or the teacher's label.
        text: the prompt decoded, special tokens included.
        token_ids: the prompt as ids.
        note: what to mind; empty if nothing.
    """

    question_id: str
    reader: str
    text: str
    token_ids: list[int]
    note: str


def preview_prompts(config: ScoreConfig, count: int) -> list[PromptView]:
    """Render the prompts of the first `count` questions for the student and every teacher.

    Raises:
        GradalignError: the same as a run would.
    """
    checked = check(config)
    views = []
    for i, question in enumerate(checked.questions[:count]):
        ids = checked.prompts[i]
        text = whole_text(checked.student.tokenizer, ids)
        note = _about(checked.student.label, checked.notes)
        views.append(PromptView(question.id, "student", text, ids, note))
        for teacher in checked.teachers:
            ids = teacher.prompts[i]
            unseen = (
                f"shown without its context: {teacher.spec.context} depends on the student's "
                "responses"
                if teacher.context.needs_attempts
                else ""
            )
            note = "; ".join(
                part for part in (unseen, _about(teacher.reader.label, checked.notes)) if part
            )
            text = whole_text(teacher.reader.tokenizer, ids)
            views.append(PromptView(question.id, teacher.spec.label, text, ids, note))
    return views


def _about(label: str, notes: Sequence[str]) -> str:
    """Return the notes on one reader's chat template."""
    of = f"{label}: "
    return "; ".join(note.removeprefix(of).rstrip(".") for note in notes if note.startswith(of))
