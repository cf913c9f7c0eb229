"""The context `other-answer`: another question's answer, well-formed and useless."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts.base import (
    Context,
    SimpleContext,
    digest,
    draw,
    no_argument,
    require_field,
    with_note,
)
from gradalign.contexts.registry import CONTEXTS
from gradalign.contexts.row_fields import ANSWER_NOTE
from gradalign.errors import UsageError
from gradalign.questions import Attempt, Prompt, Question


@CONTEXTS.register("other-answer")
def other_answer(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show another question's answer as if it were this one's: well-formed and useless.

    A row is skipped where no other question has an answer of its own.
    """
    no_argument("other-answer", argument)
    if questions is None:
        raise UsageError(
            "context other-answer needs the task's questions.",
            "Pass them: gradalign.contexts.get(name, questions).",
        )
    pool = [item for item in questions if item.answer]

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        shown = answer_of_another(question, pool)
        if shown is None:
            return None
        return with_note(question.prompt, ANSWER_NOTE.replace("{answer}", shown))

    return SimpleContext(
        "other-answer",
        prompt,
        fingerprint=digest(ANSWER_NOTE),
        check_functions=(require_field("other-answer", "answer"),),
    )


def answer_of_another(question: Question, pool: Sequence[Question]) -> str | None:
    """Return the answer of another question, None if all have this one's.

    The choice depends on the ids alone; of a multiple-choice question it is that of one with as
    many options, and not the same letter.
    """
    own = (question.answer or "").strip().casefold()
    fitting = [
        item
        for item in pool
        if item.id != question.id
        and (item.answer or "").strip().casefold() != own
        and len(item.choices) == len(question.choices)
    ]
    chosen = min(
        fitting,
        key=lambda item: (draw("other-answer", question.id, item.id), item.id),
        default=None,
    )
    return None if chosen is None else chosen.answer
