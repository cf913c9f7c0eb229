"""The protocol of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gradalign.questions import Question


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
