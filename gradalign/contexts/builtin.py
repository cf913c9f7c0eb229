"""The built-in contexts."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

from gradalign.contexts.base import CONTEXTS, Context, SimpleContext, with_note, with_rule
from gradalign.contexts.wrong_answer import wrong_answer
from gradalign.errors import TaskError, UsageError
from gradalign.questions import Attempt, Message, Prompt, Question

ANSWER_NOTE = (
    "For you alone: the correct final answer to this is {answer}. Reason step by step in your "
    "own words, as if you had not been told, and finish with that answer."
)
SOLUTION_NOTE = (
    "For you alone, a correct solution:\n\n{solution}\n\nNow solve it yourself, step by step in "
    "your own words, as if you had not seen it."
)
SIBLING_NOTE = (
    "For you alone, an earlier response to this that was judged correct:\n\n{sibling}\n\nNow "
    "answer yourself, step by step in your own words, as if you had not seen it."
)
FEEDBACK_NOTE = (
    "For you alone, what a grader remarked on an earlier response to this:\n\n{feedback}\n\nNow "
    "answer yourself, step by step, and heed the remark without mentioning it."
)


def digest(text: str) -> str:
    """Return a short hash of a wording."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw(*key: str) -> int:
    """Return a number that depends on the key alone, to choose with."""
    text = "\x00".join(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def require_field(context: str, column: str) -> Callable[[Question], None]:
    """Return a check that a row has a column."""

    def check(question: Question) -> None:
        value = getattr(question, column)
        if not value:
            raise TaskError(
                f"question {question.id!r} has no {column}, which the context {context} shows.",
                f"Give every row a `{column}` or use another context.",
            )

    return check


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


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise UsageError(f"context {name} takes no argument, got {argument!r}.", f"Write {name}.")


@CONTEXTS.register("none")
def none(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the question alone."""
    _no_argument("none", argument)
    return SimpleContext("none", lambda question, attempt, others: question.prompt, shared=True)


@CONTEXTS.register("answer")
def answer(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show the gold answer."""
    _no_argument("answer", argument)
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
    _no_argument("solution", argument)
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
    _no_argument("feedback", argument)
    return SimpleContext(
        "feedback",
        lambda question, attempt, others: with_note(
            question.prompt, FEEDBACK_NOTE.replace("{feedback}", question.feedback or "")
        ),
        fingerprint=digest(FEEDBACK_NOTE),
        check_functions=(require_field("feedback", "feedback"),),
    )


@CONTEXTS.register("sibling")
def sibling(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show another, successful response to the same question; without one the pair is skipped."""
    _no_argument("sibling", argument)

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        chosen = pick_sibling(question, attempt, others)
        if chosen is None:
            return None
        return with_note(question.prompt, SIBLING_NOTE.replace("{sibling}", chosen.text))

    return SimpleContext("sibling", prompt, needs_attempts=True, fingerprint=digest(SIBLING_NOTE))


@CONTEXTS.register("wrong-answer")
def wrong(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show a false but plausible answer, worded as the true one: the control.

    A row whose answer has no number, option or truth value to change is skipped.
    """
    _no_argument("wrong-answer", argument)

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        false = wrong_answer(question)
        if false is None:
            return None
        return with_note(question.prompt, ANSWER_NOTE.replace("{answer}", false))

    return SimpleContext(
        "wrong-answer",
        prompt,
        fingerprint=digest(ANSWER_NOTE),
        check_functions=(require_field("wrong-answer", "answer"),),
    )


@CONTEXTS.register("system")
def system(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show a rule of the user's own, `system:TEXT` or `system:@FILE`."""
    rule = read_text(argument, "context system").strip()
    if not rule:
        raise UsageError("context system has no text.", "Write system:TEXT or system:@FILE.")
    return SimpleContext(
        f"system:{argument}",
        lambda question, attempt, others: with_rule(question.prompt, rule),
        shared=True,
        fingerprint=digest(rule),
    )


@CONTEXTS.register("demos")
def demos(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show K other questions of the task with their solutions, `demos:K`.

    The same K for every question, except that a question that is among them gets another one
    in its place. Of messages they are earlier turns; of raw strings they stand before the prompt.
    """
    if not argument.isascii() or not argument.isdecimal() or not 1 <= int(argument) <= 64:
        raise UsageError(
            f"context demos:{argument} has no usable number.", "Write demos:K, K from 1 to 64."
        )
    if questions is None:
        raise UsageError(
            f"context demos:{argument} needs the task's questions.",
            "Pass them: gradalign.contexts.get(name, questions).",
        )
    count = int(argument)

    def first(of_text: bool) -> list[Question]:
        usable = (
            item
            for item in questions
            if (item.solution or item.answer) and isinstance(item.prompt, str) is of_text
        )
        return heapq.nsmallest(
            count + 1, usable, key=lambda item: (draw("demos", item.id), item.id)
        )

    text, turns = first(True), first(False)

    def chosen(question: Question) -> list[Question]:
        pool = text if isinstance(question.prompt, str) else turns
        return [item for item in pool if item.id != question.id][:count]

    def check(question: Question) -> None:
        if len(chosen(question)) < count:
            raise TaskError(
                f"question {question.id!r}: only {len(chosen(question))} other questions have a "
                f"solution or an answer, the context demos:{count} needs {count}.",
                "Use a smaller number or more questions.",
            )

    def prompt(
        question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        return _with_demos(question.prompt, chosen(question))

    return SimpleContext(f"demos:{count}", prompt, shared=True, check_functions=(check,))


def _with_demos(prompt: Prompt, shown: Sequence[Question]) -> Prompt:
    if isinstance(prompt, str):
        blocks = [f"{item.prompt}{item.solution or item.answer}" for item in shown]
        return "\n\n".join([*blocks, prompt])
    begin = 1 if prompt and prompt[0].role == "system" else 0
    turns: list[Message] = []
    for item in shown:
        assert not isinstance(item.prompt, str)
        turns += [message for message in item.prompt if message.role != "system"]
        turns.append(Message("assistant", item.solution or item.answer or ""))
    return (*prompt[:begin], *turns, *prompt[begin:])


def read_text(argument: str, what: str) -> str:
    """Return TEXT, or the contents of FILE for `@FILE`.

    Raises:
        UsageError: the file cannot be read.
    """
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{what}: cannot read {argument[1:]}: {reason}.", "Check it.") from error
