"""The data sets of reasoning-gym: made again from their spec, for tasks and for their scorers."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gradalign.errors import MissingDependencyError, TaskError, UnknownNameError, UsageError
from gradalign.plain_numbers import without_long_ints
from gradalign.questions import Question
from gradalign.registry import parse_spec

DEFAULT_SIZE = 100


@lru_cache(maxsize=8)
def dataset_of(argument: str) -> Any:
    """Return the reasoning-gym data set of `NAME:key=value,...`.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        UnknownNameError: it has no such task.
        UsageError: the task does not take these options.
    """
    name, options = parse(argument)
    check_name(name)
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
    entry = entry_at(dataset, index, argument) if index < len(dataset) else stored
    same = entry["question"] == stored["question"] and plain(entry) == stored
    return entry if same else stored


def names() -> list[str]:
    """Return the names of all reasoning-gym tasks."""
    _import()
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def parse(argument: str) -> tuple[str, dict[str, Any]]:
    """Return the generator's name and options of `NAME:key=value,...`, defaults filled in."""
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


def check_name(name: str) -> None:
    """Refuse a generator that reasoning-gym does not have."""
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


def entry_at(dataset: Any, index: int, argument: str) -> dict[str, Any]:
    """Return one entry as its generator writes it."""
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


def plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as JSON would give it back."""
    plain: dict[str, Any] = json.loads(
        json.dumps(without_long_ints(dict(entry)), default=str, skipkeys=True)
    )
    return plain
