"""Named extension points: a decorator for our own, an entry-point group for everybody else's."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from gradalign.errors import UnknownNameError, UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind.

    Args:
        kind: the word for error messages, such as "method".
        group: the entry-point group that plugins use, such as "gradalign.methods".
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._items: dict[str, T] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files the decorated object under `name`."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._load_plugins()
        return sorted(self._items)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, object) pairs in order of name."""
        for name in self.names():
            yield name, self._items[name]

    def __contains__(self, name: str) -> bool:
        self._load_plugins()
        return name in self._items

    def get(self, name: str) -> T:
        """Return what is registered as `name`.

        Raises:
            UnknownNameError: nothing is; the message lists what is there.
        """
        self._load_plugins()
        if name not in self._items:
            close = difflib.get_close_matches(name, self._items, n=1)
            guess = f"Did you mean {close[0]!r}? " if close else ""
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}.", f"{guess}Known: {', '.join(self.names())}."
            )
        return self._items[name]

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self.group):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    self._items.setdefault(point.name, point.load())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin's import may fail in any way, or exit
                warnings.warn(
                    f"{self.kind} plugin {point.name!r} ({point.value}) is broken and was left "
                    f"out: {type(error).__name__}: {error}",
                    stacklevel=3,
                )


def load_object(reference: str, kind: str) -> Any:
    """Import `module:attribute` (attribute may be dotted).

    What the module prints meanwhile goes to standard error: standard output is for records.

    Raises:
        UnknownNameError: the module or the attribute does not exist.
        UsageError: `reference` is not of that form, or the module fails when it is imported.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise UsageError(f"{kind} {reference!r} is not of the form module:attribute.")
    with imported_for(f"{kind} {reference!r}", module_name):
        target: Any = importlib.import_module(module_name)
    try:
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError as error:
        raise UnknownNameError(
            f"cannot load {kind} {reference!r}: {error}.",
            "Check the spelling and that the module is on PYTHONPATH.",
        ) from error
    except Exception as error:  # a module may compute its attributes
        raise UsageError(
            f"cannot load {kind} {reference!r}: {type(error).__name__}: {error}.",
            "Mend the module.",
        ) from error
    return target


@contextmanager
def imported_for(what: str, module_name: str) -> Iterator[None]:
    """Turn whatever the import of somebody's module does into an error of ours.

    Args:
        what: is to be loaded, for the message.
        module_name: is imported in the block.

    Raises:
        UnknownNameError: there is no such module.
        UsageError: it raises, or ends the interpreter.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failed(what, module_name, error) from error
        raise UnknownNameError(
            f"cannot load {what}: {error}.",
            "Check the spelling and that the module is on PYTHONPATH.",
        ) from error
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise UsageError(
            f"cannot load {what}: module {module_name} ended the interpreter when it was imported "
            f"(SystemExit: {error}){_place(error)}.",
            'Put what a script does behind `if __name__ == "__main__":`.',
        ) from error
    except BaseException as error:  # a module may raise anything
        raise _import_failed(what, module_name, error) from error


def _import_failed(what: str, module_name: str, error: BaseException) -> UsageError:
    return UsageError(
        f"cannot load {what}: module {module_name} fails when it is imported: "
        f"{type(error).__name__}: {error}{_place(error)}.",
        "Mend the module, or install what it needs.",
    )


def _place(error: BaseException) -> str:
    """Return " (FILE:LINE)" of where an error came up; a SyntaxError says so itself."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    if isinstance(error, SyntaxError) or len(own) < 3:
        return ""
    return f" ({own[-1].filename}:{own[-1].lineno})"


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,key=value` into the name and its options, all strings.

    Raises:
        UsageError: an option without `=`, or one given twice.
    """
    name, _, rest = spec.partition(":")
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, separator, value = item.partition("=")
        if not separator:
            raise UsageError(
                f"option {item!r} of {spec!r} has no value.",
                "Write it as name:key=value,key=value.",
            )
        if key.strip() in options:
            raise UsageError(f"option {key.strip()!r} of {spec!r} is given twice.")
        options[key.strip()] = value.strip()
    return name.strip(), options


def parse_value(text: str) -> Any:
    """Return the value of a `key=value` argument: JSON if it is, else the text.

    `true`, `false`, `none` and `null` count in any case, so that Python's True is no text.
    """
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
