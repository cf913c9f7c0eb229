"""What a context is, and what contexts are made with: notes in prompts, checks, choices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gradalign.errors import TaskError, UsageError
from gradalign.questions import Attempt, Message, Prompt, Question


class Context(Protocol):
    """Privileged information: what a teacher is shown beside the question.

    Attributes:
        name: as in `MODEL+NAME`.
        shared: True for a rule that is the same for all questions, False for information about
            the question itself.
        needs_attempts: whether `prompt` depends on the attempt or on the others.
        description: one line for `gradalign contexts list`.
        fingerprint: identifies the wording (a template's or a rule's text), for run.json.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def shared(self) -> bool:
        """See the class."""
        ...

    @property
    def needs_attempts(self) -> bool:
        """See the class."""
        ...

    @property
    def description(self) -> str:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """See the class."""
        ...

    def prompt(
        self, question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        """Return the teacher's prompt; None: not available here, the pair is left out.

        Args:
            question: the question.
            attempt: the spine that the teacher is going to score.
            others: further spines of the same question.
        """
        ...

    def check(self, question: Question) -> None:
        """Raise TaskError if the row lacks what this context shows."""
        ...


PromptFunction = Callable[[Question, Attempt | None, Sequence[Attempt]], Prompt | None]


@dataclass(frozen=True)
class SimpleContext:
    """A context made of two functions."""

    name: str
    prompt_function: PromptFunction
    description: str = ""
    shared: bool = False
    needs_attempts: bool = False
    fingerprint: str = "1"
    check_functions: tuple[Callable[[Question], None], ...] = field(default=())

    def prompt(
        self, question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        """Build the teacher's prompt."""
        return self.prompt_function(question, attempt, others)

    def check(self, question: Question) -> None:
        """Check the row."""
        for function in self.check_functions:
            function(question)


ContextFactory = Callable[[str, Sequence[Question] | None], Context]
"""Makes a context from what follows the colon of its name ("" if nothing does) and from the
run's questions (None where they are not at hand)."""


def with_note(prompt: Prompt, note: str) -> Prompt:
    """Put privileged text into a prompt.

    Into messages: at the end of the last user message. Into a raw string: before it, because
    its end is what the response continues.
    """
    if isinstance(prompt, str):
        return f"{note}\n\n{prompt}"
    place = last_user(prompt)
    if place is None:
        return with_last_user(prompt, note)
    message = prompt[place]
    return (
        *prompt[:place],
        Message(message.role, f"{message.content}\n\n{note}"),
        *prompt[place + 1 :],
    )


def with_rule(prompt: Prompt, rule: str) -> Prompt:
    """Put a shared rule into a prompt: its system message, or the beginning of a raw string."""
    if isinstance(prompt, str):
        return f"{rule}\n\n{prompt}"
    if prompt and prompt[0].role == "system":
        return (Message("system", f"{prompt[0].content}\n\n{rule}"), *prompt[1:])
    return (Message("system", rule), *prompt)


def with_last_user(prompt: tuple[Message, ...], text: str) -> Prompt:
    """Add a user message as the last turn, or before an assistant's turn that is gone on with."""
    end = len(prompt) - 1 if prompt and prompt[-1].role == "assistant" else len(prompt)
    return (*prompt[:end], Message("user", text), *prompt[end:])


def last_user(prompt: tuple[Message, ...]) -> int | None:
    """Return the place of the last user message, None if there is none."""
    places = [index for index, message in enumerate(prompt) if message.role == "user"]
    return places[-1] if places else None


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


def no_argument(name: str, argument: str) -> None:
    """Refuse `name:something` for a context without options."""
    if argument:
        raise UsageError(f"context {name} takes no argument, got {argument!r}.", f"Write {name}.")


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
