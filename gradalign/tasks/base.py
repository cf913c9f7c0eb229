"""What a task is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gradalign.questions import Question


class Task(Protocol):
    """A source of questions.

    Attributes:
        name: the spec it was made from, such as "demo:addition" or "questions.jsonl".
        description: one line for `gradalign tasks list`.
        verifier: spec of the verifier used unless the user names another.
        fingerprint: revision or content hash of the data, kept in run.json.

    It may also have `size` (questions in all), and `evaluation`: in words, the data that models
    are measured on and that the questions are from; None if they may be trained on.
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


@dataclass(frozen=True)
class TaskSource:
    """A named kind of task.

    Attributes:
        description: one line for `gradalign tasks list`.
        build: makes the task from what follows the colon of its name ("" if nothing does).
        extra: what must be installed beside gradalign, as the name of an extra; "" for nothing.
        example: a name that can be used as it is.
        split: of the data that is read unless the user names another; "" if there are none.
        evaluation: whether models are measured on that split, so that weights made from it must
            not train one.
    """

    description: str
    build: Callable[[str], Task]
    extra: str = ""
    example: str = ""
    split: str = ""
    evaluation: bool = False
