"""A benchmark's schema: which data set, and how one of its rows becomes a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradalign.errors import TaskError
from gradalign.questions import Question


@dataclass(frozen=True)
class Benchmark:
    """A data set of the hub and how its rows become questions.

    Attributes:
        name: of the task.
        description: one line for `gradalign tasks list`.
        repository: on the hub.
        subset: its configuration, None for the default.
        split: the split used unless the user names another.
        verifier: spec of the verifier.
        convert: makes a question of a row: its text (not yet a prompt), answer, solution,
            choices, metadata; its id is ignored.
        instruction: what follows the question in the prompt.
        id_columns: columns that may hold an id, the first one found is used; without one the
            id is the row's number.
        gated: whether the hub asks for an agreement first.
        training_split: the split that is there to be trained on; None if there is none, as where
            the whole data set is for evaluation, whatever its split is called.
    """

    name: str
    description: str
    repository: str
    subset: str | None
    split: str
    verifier: str
    convert: Callable[[Row], Question]
    instruction: str
    id_columns: tuple[str, ...] = ()
    gated: bool = False
    training_split: str | None = None

    def evaluation(self, split: str) -> str | None:
        """Return what a split is in words if models are to be measured on it, else None.

        Args:
            split: as the package datasets takes it, such as `test` or `train[:100]`.
        """
        if split.partition("[")[0].strip() == self.training_split:
            return None
        return f"the {split} split of {self.repository}"


class Row:
    """A row of a data set, with errors that name it.

    Args:
        values: the columns.
        where: the row, for messages.
        task: the task whose schema is expected.
    """

    def __init__(self, values: Mapping[str, Any], where: str, task: str) -> None:
        self.values = values
        self.where = where
        self._task = task

    def get(self, *names: str) -> Any:
        """Return the first of these columns that exists.

        Raises:
            TaskError: none does.
        """
        for name in names:
            if name in self.values:
                return self.values[name]
        raise self.error(
            f"has no column {names[0]!r} (it has {', '.join(map(repr, self.values))})",
            f"The data must have the schema of the hub's data set for the task {self._task}.",
        )

    def text(self, *names: str) -> str:
        """Return a column that must hold text.

        Raises:
            TaskError: there is no such column, or it holds something else or nothing.
        """
        value = self.get(*names)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"has no text in {names[0]!r}", "Repair the row or drop it.")
        return value.strip()

    def optional_text(self, *names: str) -> str | None:
        """Return a column that may hold text, None if it does not."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str) and value.strip():
                return value.strip()
        return None

    def metadata(self, *names: str) -> dict[str, object]:
        """Return those of these columns that exist."""
        return {name: self.values[name] for name in names if name in self.values}

    def error(self, problem: str, hint: str) -> TaskError:
        """Return an error about this row."""
        return TaskError(f"{self.where} {problem}.", hint)
