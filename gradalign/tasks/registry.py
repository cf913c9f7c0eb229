"""Names to tasks: our own, those of entry points, files, and `module:Class`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from gradalign.errors import GradalignError, TaskError, UnknownNameError, UsageError
from gradalign.questions import Question
from gradalign.registry import Registry, load_object, parse_spec
from gradalign.tasks.base import Task, TaskSource
from gradalign.tasks.files import SUFFIXES, FileTask, user_path
from gradalign.tasks.row_checks import check_answer, check_question, check_unique, in_text
from gradalign.verifiers import get

TASKS: Registry[Any] = Registry("task", "gradalign.tasks")
"""Names to `TaskSource`s; a plugin may also register a Task class, which is called with the
options after the colon as keyword arguments."""


def load_task(spec: str, verifier: str | None = None) -> Task:
    """Make a task from its name; its data is read when it is first asked for.

    Args:
        spec: see the package's description.
        verifier: spec of the verifier that will be used instead of the task's own, so that
            rows without an answer are refused exactly if it needs one.

    Raises:
        UnknownNameError: no such task, module or class.
        TaskError: a questions file that does not exist.
        UsageError: options that the task does not take.
        MissingDependencyError: the extra that the task needs is not installed.
    """
    if spec.endswith(SUFFIXES) and not _names_source(spec):
        return FileTask(spec, verifier)
    name, separator, argument = spec.partition(":")
    if name in TASKS:
        return _CheckedTask(_build(TASKS.get(name), name, argument), spec, verifier)
    if user_path(spec).is_file():
        raise UsageError(
            f"questions file {spec} has an unknown suffix.", f"Known: {', '.join(SUFFIXES)}."
        )
    if separator:
        module, _, rest = spec.partition(":")
        attribute, _, options = rest.partition(":")
        item = load_object(f"{module}:{attribute}", "task")
        return _CheckedTask(_build(item, f"{module}:{attribute}", options), spec, verifier)
    known = {"demo": "demo:addition", "reasoning_gym": "reasoning_gym:NAME"}
    close = difflib.get_close_matches(spec, TASKS.names(), n=1)
    raise UnknownNameError(
        f"unknown task {spec!r}.",
        (f"Did you mean {known.get(close[0], close[0])!r}? " if close else "")
        + f"Known: {', '.join(known.get(name, name) for name in TASKS.names())}. Or give a "
        ".jsonl, .json or .parquet file, or module:Class.",
    )


def describe() -> list[dict[str, str]]:
    """Return a record per task: name, description, split, example, extra."""
    sources = [
        (name, source)
        if isinstance(source, TaskSource)
        else (name, TaskSource(str(getattr(source, "description", "") or ""), source))
        for name, source in TASKS.items()
    ]
    sources.append(("FILE", TaskSource(FileTask.description, FileTask, example="questions.jsonl")))
    return [
        {
            "name": name,
            "description": source.description,
            "split": f"{source.split}, for evaluation" if source.evaluation else source.split,
            "example": source.example or name,
            "extra": source.extra,
        }
        for name, source in sources
    ]


def _names_source(spec: str) -> bool:
    """Whether a spec that ends like a file is a named task with `path=FILE`."""
    name, separator, _ = spec.partition(":")
    return bool(separator) and name in TASKS


def _build(source: Any, name: str, argument: str) -> Task:
    if isinstance(source, TaskSource):
        return source.build(argument)
    if not callable(source):
        task = source
    else:
        options = parse_spec(f"{name.replace(':', '.')}:{argument}")[1] if argument else {}
        try:
            task = source(**options)
        except TypeError as error:
            raise UsageError(f"task {name}: {error}.", "See the options that it takes.") from error
        except (GradalignError, KeyboardInterrupt):
            raise
        except BaseException as error:  # somebody's class may raise anything, or exit
            raise _broken(name, error) from error
    if not callable(getattr(task, "questions", None)) or not getattr(task, "verifier", ""):
        raise UsageError(
            f"{name} is not a task: it needs a method questions(limit, ids, seed) and an "
            "attribute verifier.",
            "See gradalign.tasks.Task.",
        )
    built: Task = task
    return built


def _broken(name: str, error: BaseException) -> TaskError:
    return TaskError(
        f"task {name} fails: {type(error).__name__}: {error}.", "Mend it, or use other options."
    )


class _CheckedTask:
    """A task whose questions are checked as those of a file are."""

    def __init__(self, task: Task, spec: str, verifier: str | None) -> None:
        self._task = task
        self._given_verifier = verifier
        self.name = spec
        self.description = str(getattr(task, "description", "") or "")

    @property
    def verifier(self) -> str:
        return self._task.verifier

    @property
    def fingerprint(self) -> str:
        return str(getattr(self._task, "fingerprint", "") or "")

    @property
    def size(self) -> int | None:
        size = getattr(self._task, "size", None)
        return size if isinstance(size, int) else None

    @property
    def evaluation(self) -> str | None:
        evaluation = getattr(self._task, "evaluation", None)
        return evaluation if isinstance(evaluation, str) else None

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return the task's questions.

        Raises:
            TaskError: one of them cannot be used.
        """
        spec = self._given_verifier or self.verifier
        verifier = get(spec)
        try:
            given = list(self._task.questions(limit, ids, seed))
        except (GradalignError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise _broken(self.name, error) from error
        questions = []
        for index, question in enumerate(given):
            where = f"{self.name}, question {index + 1}"
            if not isinstance(question, Question):
                raise TaskError(
                    f"{where} is of type {type(question).__name__}.",
                    "Return gradalign.tasks.Question objects.",
                )
            question = in_text(question, where)
            check_question(question, where)
            if verifier.needs_answer:
                check_answer(question, where, spec)
            verifier.check(question)
            questions.append(question)
        check_unique((q, f"{self.name}, question {i + 1}") for i, q in enumerate(questions))
        return questions
