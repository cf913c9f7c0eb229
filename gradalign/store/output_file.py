"""Files that reading commands write: what gradalign did not write is not written over."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gradalign.errors import RunError
from gradalign.store.folder import RunFolder

PAGE_MARK = b'<meta name="generator" content="gradalign">'
"""In the head of every page that we write."""


def head_of(path: str, size: int = 4096) -> bytes:
    """Return a file's first bytes."""
    with open(path, "rb") as file:
        return file.read(size)


def is_page(path: str) -> bool:
    """Whether a file is a page of ours."""
    return PAGE_MARK in head_of(path)


def remove_page(folder: RunFolder) -> None:
    """Delete the page of a run that is about to be another one, if there is one of ours."""
    path = folder.path("report.html")
    if folder.local and os.path.isfile(path) and not os.path.islink(path) and is_page(path):
        os.unlink(path)


@contextmanager
def replacing(path: str, ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield a name to write to; afterwards the file of that name is whole, or as it was.

    A pipe or a device is written to directly.

    Args:
        path: the file.
        ours: whether the file of that path may be written over.

    Raises:
        RunError: there is a file of that name that is none of ours, or it cannot be written.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unwritable(path, error) from error
    else:
        if not stat.S_ISREG(mode):
            yield path
            return
        _check(target, path, ours)
    temporary = os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _check(target: str, path: str, ours: Callable[[str], bool]) -> None:
    try:
        if os.path.getsize(target) == 0 or ours(target):
            return
    except OSError as error:
        raise _unwritable(path, error) from error
    raise RunError(
        f"{path} is there already, and gradalign did not write it.",
        "Give another --output, or delete it yourself.",
    )


def _unwritable(path: str, error: OSError) -> RunError:
    if isinstance(error, RunError):
        return error
    return RunError(f"cannot write {path}: {error.strerror or error}.", "Give another --output.")
