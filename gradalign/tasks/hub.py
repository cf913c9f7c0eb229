"""Data sets of the hub as tasks: `gsm8k`, `mmlu:subset=anatomy`, `math:path=FILE`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gradalign.errors import MissingDependencyError, TaskError, UsageError
from gradalign.questions import Message, Question
from gradalign.registry import parse_spec
from gradalign.tasks.benchmark_rows import Benchmark, Row
from gradalign.tasks.fields import refuse_lost_fields
from gradalign.tasks.files import user_path
from gradalign.tasks.hub_data import load_hub, load_local
from gradalign.tasks.row_checks import check_answer, check_question, select_ids


@dataclass(frozen=True)
class HubOptions:
    """What may follow the colon of a benchmark's name; see `HubTask`."""

    path: str | None = None
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    format: str = "chat"


_PATH = re.compile(
    rf"(?:^|(?<=,))path=(.+?)(?=,(?:{'|'.join(HubOptions.__dataclass_fields__)})=|$)", re.DOTALL
)


class HubTask:
    """A benchmark; rows are read when questions are asked for.

    Options after the colon: `path` (a local file, or a folder with a copy of the hub's
    repository), `split`, `subset`, `revision`, and `format=chat|raw` (messages for the chat
    template, or a plain string for models without one).

    Args:
        benchmark: which one.
        argument: what follows the colon of the task's name.
    """

    def __init__(self, benchmark: Benchmark, argument: str = "") -> None:
        self.name = benchmark.name + (f":{argument}" if argument else "")
        self.description = benchmark.description
        self.verifier = benchmark.verifier
        self._benchmark = benchmark
        self._options = parse_options(benchmark.name, argument)
        if importlib.util.find_spec("datasets") is None:
            raise MissingDependencyError(
                f"task {benchmark.name} needs the package datasets.",
                "Install it: pip install 'gradalign[tasks]'.",
            )

    @property
    def fingerprint(self) -> str:
        """`repository@commit` for the hub, the file's SHA-256 for a file."""
        return self._loaded[1]

    @property
    def size(self) -> int:
        """Number of all questions."""
        return len(self._loaded[0])

    @property
    def evaluation(self) -> str | None:
        """The split in words if models are measured on it; None if not, or if nobody can know."""
        benchmark, options = self._benchmark, self._options
        if options.path is not None and options.split is None and benchmark.training_split:
            return None  # a file of the user's: either split may be in it
        return benchmark.evaluation(options.split or benchmark.split)

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return questions in the order that `select_ids` documents.

        Only the rows that are asked for are read.

        Raises:
            TaskError: the data cannot be had, or a row does not have the data set's schema.
        """
        data, _ = self._loaded
        known = self._ids(data)
        chosen = select_ids(known, limit, ids, seed, self.name)
        return [self._question(data[index], known[index], index) for index in chosen]

    def _ids(self, data: Any) -> list[str]:
        column = next((c for c in self._benchmark.id_columns if c in data.column_names), None)
        if column is None:
            return [str(index) for index in range(len(data))]
        ids = [str(value).strip() for value in data[column]]
        places: dict[str, int] = {}
        for index, identifier in enumerate(ids):
            if identifier in places:
                raise TaskError(
                    f"{self.name}, row {index + 1}: id {identifier!r} is already that of row "
                    f"{places[identifier] + 1}.",
                    "Give each row an id of its own.",
                )
            places[identifier] = index
        return ids

    def _question(self, values: Mapping[str, Any], identifier: str, index: int) -> Question:
        where = f"{self.name}, row {index + 1}"
        refuse_lost_fields(values, where)
        bare = self._benchmark.convert(Row(values, where, self._benchmark.name))
        assert isinstance(bare.prompt, str)
        if not bare.prompt.strip():
            raise TaskError(f"{where}: the question is empty.", "Give it a text or drop the row.")
        text = f"{bare.prompt}\n\n{self._benchmark.instruction}"
        question = replace(
            bare,
            id=identifier,
            prompt=(Message("user", text),) if self._options.format == "chat" else f"{text}\n\n",
        )
        check_question(question, where)
        check_answer(question, where, self.verifier)
        return question

    @cached_property
    def _loaded(self) -> tuple[Any, str]:
        options = self._options
        if options.path is not None:
            path = user_path(options.path)
            return load_local(self._benchmark, path, options.subset, options.split)
        return load_hub(self._benchmark, options.subset, options.split, options.revision)


def parse_options(name: str, argument: str) -> HubOptions:
    """Read the options of a benchmark.

    Args:
        name: the benchmark.
        argument: what follows the colon.

    Raises:
        UsageError: an option that is unknown or given twice, or a format that is unknown.
    """
    fields = HubOptions.__dataclass_fields__
    # A path ends where another option begins: it may have commas and blanks in it.
    found = _PATH.search(argument)
    rest = argument[: found.start()] + argument[found.end() :] if found else argument
    values = parse_spec(f"{name}:{rest}")[1]
    if found:
        if "path" in values:
            raise UsageError(f"option 'path' of '{name}:{argument}' is given twice.")
        values["path"] = found[1]
    for key in values:
        if key not in fields:
            raise UsageError(
                f"task {name} has no option {key!r}.", f"Options: {', '.join(fields)}."
            )
    options = HubOptions(**values)
    if options.format not in ("chat", "raw"):
        raise UsageError(f"task {name}: format={options.format}.", "Use chat or raw.")
    if options.path is not None and options.revision is not None:
        raise UsageError(f"task {name}: a local path has no revision.", "Leave out one of both.")
    return options
