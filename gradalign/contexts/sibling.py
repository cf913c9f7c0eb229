"""The context `sibling`: another response of the student that succeeded."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts.base import Context, SimpleContext, digest, draw, no_argument, with_note
from gradalign.contexts.registry import CONTEXTS
from gradalign.questions import Attempt, Prompt, Question

SIBLING_NOTE = (
    "For you alone, an earlier response to this that was judged correct:\n\n{sibling}\n\nNow "
    "answer yourself, step by step in your own words, as if you had not seen it."
)


@CONTEXTS.register("sibling")
def sibling(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show another, successful response to the same question; without one the pair is skipped."""
    no_argument("sibling", argument)

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        chosen = pick_sibling(question, attempt, others)
        if chosen is None:
            return None
        return with_note(question.prompt, SIBLING_NOTE.replace("{sibling}", chosen.text))

    return SimpleContext("sibling", prompt, needs_attempts=True, fingerprint=digest(SIBLING_NOTE))


def pick_sibling(
    question: Question, attempt: Attempt | None, others: Sequence[Attempt]
) -> Attempt | None:
    """Choose a successful attempt (reward 1) other than `attempt`; None if there is none.

    The choice depends on the two ids only, not on the order of `others`.
    """
    own = None if attempt is None else attempt.spine_id
    good = [item for item in others if item.reward >= 1.0 and item.spine_id != own]
    return min(
        good, key=lambda item: draw("sibling", question.id, own or "", item.spine_id), default=None
    )
