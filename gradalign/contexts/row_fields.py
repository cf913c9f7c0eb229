"""Contexts that show a column of the row: `answer`, `solution`, `feedback`; and `none`."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts.base import (
    Context,
    SimpleContext,
    digest,
    no_argument,
    require_field,
    with_note,
)
from gradalign.contexts.registry import CONTEXTS
from gradalign.questions import Question

ANSWER_NOTE = (
    "For you alone: the correct final answer to this is {answer}. Reason step by step in your "
    "own words, as if you had not been told, and finish with that answer."
)
SOLUTION_NOTE = (
    "For you alone, a correct solution:\n\n{solution}\n\nNow solve it yourself, step by step in "
    "your own words, as if you had not seen it."
)
FEEDBACK_NOTE = (
    "For you alone, what a grader remarked on an earlier response to this:\n\n{feedback}\n\nNow "
    "answer yourself, step by step, and heed the remark without mentioning it."
)


@CONTEXTS.register("none")
def none(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the question alone."""
    no_argument("none", argument)
    return SimpleContext("none", lambda question, attempt, others: question.prompt, shared=True)


@CONTEXTS.register("answer")
def answer(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the gold answer."""
    no_argument("answer", argument)
    return SimpleContext(
        "answer",
        lambda question, attempt, others: with_note(
            question.prompt, ANSWER_NOTE.replace("{answer}", question.answer or "")
        ),
        fingerprint=digest(ANSWER_NOTE),
        check_functions=(require_field("answer", "answer"),),
    )


@CONTEXTS.register("solution")
def solution(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the gold solution."""
    no_argument("solution", argument)
    return SimpleContext(
        "solution",
        lambda question, attempt, others: with_note(
            question.prompt, SOLUTION_NOTE.replace("{solution}", question.solution or "")
        ),
        fingerprint=digest(SOLUTION_NOTE),
        check_functions=(require_field("solution", "solution"),),
    )


@CONTEXTS.register("feedback")
def feedback(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the row's feedback."""
    no_argument("feedback", argument)
    return SimpleContext(
        "feedback",
        lambda question, attempt, others: with_note(
            question.prompt, FEEDBACK_NOTE.replace("{feedback}", question.feedback or "")
        ),
        fingerprint=digest(FEEDBACK_NOTE),
        check_functions=(require_field("feedback", "feedback"),),
    )
