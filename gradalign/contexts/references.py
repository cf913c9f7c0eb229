"""What a reference is worth: its wording without it, and it without the question.

A teacher that is told the answer or a solution differs from the student in two ways: it was asked
in other words, and it knows something. `reference-free` has the first alone, and
`reference-only` shows what the reference says by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts.base import (
    Context,
    SimpleContext,
    digest,
    last_user,
    read_text,
    require_field,
    with_last_user,
    with_note,
)
from gradalign.contexts.registry import CONTEXTS
from gradalign.errors import TaskError, UsageError
from gradalign.questions import Attempt, Message, Prompt, Question

FREE_NOTE = "Reason step by step in your own words, and finish with the final answer."
ONLY_NOTES = {
    "answer": "The correct final answer is {answer}. Give a solution that finishes with it.",
    "solution": "A correct solution:\n\n{solution}\n\nGive it again, step by step.",
}


@CONTEXTS.register("reference-free")
def reference_free(argument: str, questions: Sequence[Question] | None) -> Context:
    """Ask in the words of `answer` and `solution`, without either: what wording alone does.

    `reference-free:TEXT` and `reference-free:@FILE` ask in words of the user's own.
    """
    note = read_text(argument, "context reference-free").strip() if argument else FREE_NOTE
    if not note:
        raise UsageError("context reference-free has no text.", "Write reference-free alone.")
    return SimpleContext(
        f"reference-free:{argument}" if argument else "reference-free",
        lambda question, attempt, others: with_note(question.prompt, note),
        shared=True,
        fingerprint=digest(note),
    )


@CONTEXTS.register("reference-only")
def reference_only(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the solution, or else the answer, without the question: what it says by itself.

    `reference-only:answer` and `reference-only:solution` take that one.
    """
    if argument not in ("", *ONLY_NOTES):
        raise UsageError(
            f"context reference-only has nothing called {argument!r}.",
            "Write reference-only, reference-only:answer or reference-only:solution.",
        )

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        kind = argument or ("solution" if question.solution else "answer")
        note = ONLY_NOTES[kind].replace(f"{{{kind}}}", getattr(question, kind) or "")
        return _instead(question.prompt, note)

    def either(question: Question) -> None:
        if not (question.solution or question.answer):
            raise TaskError(
                f"question {question.id!r} has neither a solution nor an answer, which the "
                "context reference-only shows.",
                "Give every row one of them or use another context.",
            )

    return SimpleContext(
        f"reference-only:{argument}" if argument else "reference-only",
        prompt,
        fingerprint=digest("\x00".join(ONLY_NOTES.values())),
        check_functions=(require_field("reference-only", argument) if argument else either,),
    )


def _instead(prompt: Prompt, note: str) -> Prompt:
    """Put a text where the question stands: in the last user message, or as the whole prompt."""
    if isinstance(prompt, str):
        return f"{note}\n\n"
    place = last_user(prompt)
    if place is None:
        return with_last_user(prompt, note)
    return (*prompt[:place], Message("user", note), *prompt[place + 1 :])
