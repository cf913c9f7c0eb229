"""Questions, attempts at them, and the protocol of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; rendered by the tokenizer's chat template."""

    role: str
    content: str


Prompt: TypeAlias = str | tuple[Message, ...]
"""A raw string, tokenised as it stands, or messages for the chat template."""


LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of a multiple-choice question's options, in order."""


@dataclass(frozen=True)
class Question:
    """A prompt with what is needed to verify a response and to inform a teacher.

    Attributes:
        id: unique within the task.
        prompt: what the student sees.
        answer: the gold answer that verifiers compare with.
        solution: a worked solution, for the context `solution`.
        choices: the options of a multiple-choice question, in order.
        feedback: what a grader would tell the student, for the context `feedback`.
        contexts: teacher prompts given verbatim, by context name; they win over the built-in
            context of the same name.
        metadata: anything else of the row that verifiers or templates may use.
    """

    id: str
    prompt: Prompt
    answer: str | None = None
    solution: str | None = None
    choices: tuple[str, ...] = ()
    feedback: str | None = None
    contexts: Mapping[str, Prompt] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """A spine as contexts see it: the student's response text and its reward.

    The reward is NaN where the verification failed; it is then neither right nor wrong.
    """

    spine_id: str
    text: str
    reward: float


class Task(Protocol):
    """A source of questions.

    Attributes:
        name: the spec it was made from, such as "demo:addition" or "questions.jsonl".
        description: one line for `gradalign tasks list`.
        verifier: spec of the verifier used unless the user names another.
        fingerprint: revision or content hash of the data, kept in run.json.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def description(self) -> str:
        """See the class."""
        ...

    @property
    def verifier(self) -> str:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """See the class."""
        ...

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return the questions in a seeded order, at most `limit`, or only those in `ids`.

        Raises:
            TaskError: the data is missing, malformed, or lacks one of `ids`.
        """
        ...
