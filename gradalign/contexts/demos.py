"""The context `demos`: other questions of the task with their solutions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from gradalign.contexts.base import Context, SimpleContext, draw
from gradalign.contexts.registry import CONTEXTS
from gradalign.errors import TaskError, UsageError
from gradalign.questions import Attempt, Message, Prompt, Question


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
