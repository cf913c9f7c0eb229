"""Procedural tasks of reasoning-gym: `reasoning_gym:NAME`, with its own scorers."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from gradalign.errors import MissingDependencyError, TaskError, UnknownNameError, UsageError
from gradalign.questions import Message, Question
from gradalign.registry import parse_spec
from gradalign.tasks.numbers import without_long_ints
from gradalign.tasks.row_checks import check_question, select, text_of

DEFAULT_SIZE = 100

INSTRUCTION = (
    "Think it through, then write the final answer between <answer> and </answer>, "
    "with nothing else between the tags."
)


class ReasoningGymTask:
    """`reasoning_gym:NAME:key=value,...`; options go to the generator (size, seed, its own).

    Without `seed` the data set is that of seed 0, so that a run can be repeated.

    Args:
        argument: what follows `reasoning_gym:`.
    """

    description = "a procedural task of reasoning-gym, with its own scorer"

    def __init__(self, argument: str) -> None:
        name, options = _parse(argument)
        self.name = f"reasoning_gym:{argument}"
        self.verifier = self.name
        self._argument = argument
        _check_name(name)
        from importlib.metadata import version

        settings = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
        self.fingerprint = f"generated:reasoning-gym=={version('reasoning-gym')}:{name}:{settings}"

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return questions in the order that `select` documents.

        Raises:
            TaskError: the generator fails.
        """
        return select(self._questions, limit, ids, seed, self.name)

    @cached_property
    def _questions(self) -> list[Question]:
        dataset = dataset_of(self._argument)
        questions = []
        for index in range(len(dataset)):
            entry = _entry(dataset, index, self._argument)
            answer = entry.get("answer")
            question = Question(
                id=str(index),
                prompt=(Message("user", f"{entry['question']}\n\n{INSTRUCTION}"),),
                answer=_answer_text(answer, f"{self.name}, entry {index}: the answer"),
                metadata={"index": index, "entry": _plain(entry)},
            )
            check_question(question, f"{self.name}, entry {index}")
            questions.append(question)
        return questions


@lru_cache(maxsize=8)
def dataset_of(argument: str) -> Any:
    """Return the reasoning-gym data set of `NAME:key=value,...`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        UnknownNameError: it has no such task.
        UsageError: the task does not take these options.
    """
    name, options = _parse(argument)
    _check_name(name)
    gym = _import()
    try:
        return gym.create_dataset(name, **options)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise UsageError(
            f"task reasoning_gym:{argument}: {error}.", "See the task's options in reasoning-gym."
        ) from error


def entry_of(dataset: Any, argument: str, question: Question) -> Mapping[str, Any]:
    """Return the generator's own entry behind a question.

    A generator that iterates over sets can differ between processes. Then the entry that the
    question was made from is taken, in the plain JSON types that it was stored with.
    """
    stored = question.metadata.get("entry")
    index = question.metadata.get("index")
    if not isinstance(stored, Mapping) or not isinstance(index, int):
        raise TaskError(
            f"question {question.id!r} does not come from reasoning_gym:{argument}.",
            "Its scorer only works on its own questions.",
        )
    entry = _entry(dataset, index, argument) if index < len(dataset) else stored
    same = entry["question"] == stored["question"] and _plain(entry) == stored
    return entry if same else stored


def names() -> list[str]:
    """Return the names of all reasoning-gym tasks."""
    _import()
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def _parse(argument: str) -> tuple[str, dict[str, Any]]:
    name, texts = parse_spec(argument)
    options: dict[str, Any] = {"size": DEFAULT_SIZE, "seed": 0}
    for key, text in texts.items():
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    size = options["size"]
    if not isinstance(size, int) or not 1 <= size <= 1_000_000:
        raise UsageError(
            f"task reasoning_gym:{argument}: size {size!r} cannot be used.",
            "Give a whole number from 1 to 1000000.",
        )
    return name, options


def _check_name(name: str) -> None:
    known = names()
    if name not in known:
        import difflib

        close = difflib.get_close_matches(name, known, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise UnknownNameError(
            f"reasoning-gym has no task {name!r}.", f"{guess}Known: {', '.join(known)}."
        )


def _import() -> Any:
    try:
        with warnings.catch_warnings():
            # One of its dependencies has literals that recent Python versions warn about.
            warnings.simplefilter("ignore", SyntaxWarning)
            import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            f"tasks of reasoning-gym need it installed ({error}).",
            "Install it: pip install 'gradalign[tasks]'.",
        ) from error
    return reasoning_gym


def _entry(dataset: Any, index: int, argument: str) -> dict[str, Any]:
    try:
        # Some generators print their progress; standard output is for the program's records.
        with contextlib.redirect_stdout(io.StringIO()):
            entry = dataset[index]
    except Exception as error:  # generators fail in their own ways
        raise TaskError(
            f"reasoning_gym:{argument} fails at entry {index}: {type(error).__name__}: {error}.",
            "Use other options or another seed.",
        ) from error
    return dict(entry)


def _answer_text(answer: object, what: str) -> str | None:
    """Return an entry's answer as text; some generators give other things than numbers."""
    if isinstance(answer, (int, float)):
        return text_of(answer, what)
    return None if answer is None else str(answer)


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as JSON would give it back."""
    plain: dict[str, Any] = json.loads(
        json.dumps(without_long_ints(dict(entry)), default=str, skipkeys=True)
    )
    return plain
