"""One writer per run folder: a lock that is taken before the folder is looked at.

On local and network disks it is an `flock` on a file in the folder, which the system gives back
however its holder ends, `kill -9` included. Where there is none (object stores, disks without
locks) it is a file that is created only if it is not there. Its holder renews it, and others take
it once it is out of date. That is as safe as the store: one that cannot create a file exclusively
leaves a gap of milliseconds, and clocks must agree to within `STALE_SECONDS`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from gradalign.errors import RunError
from gradalign.store.folder import LOCK_NAME, RunFolder, write_error

RENEW_SECONDS = 30.0
"""How often the holder of a lock without `flock` says that it is still there."""

STALE_SECONDS = 300.0
"""A lock that was not renewed for so long belongs to nobody."""

_SETTLE_SECONDS = 0.2
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}

_here: dict[str, dict[str, Any]] = {}
_guard = threading.Lock()


@contextmanager
def sole_writer(folder: RunFolder) -> Iterator[None]:
    """Hold a run's folder for as long as the block lasts; it is made if it is not there.

    A folder that was made for the lock alone is gone afterwards.

    Raises:
        RunError: somebody else holds it (the message says who), or it cannot be written.
    """
    place = folder.identity
    owner = _owner()
    with _guard:  # flock of some network disks is one per process
        # A forked child has its parent's list, but not its work.
        if place in _here and _here[place]["pid"] == os.getpid():
            raise _taken(folder, _here[place])
        _here[place] = owner
    try:
        with _disk_lock(folder, owner) if folder.local else _store_lock(folder, owner):
            yield
    finally:
        with _guard:
            del _here[place]


def at_work(folder: RunFolder) -> str | None:
    """Return who holds a run's folder, in words; None where nobody does.

    Nothing is written: a folder without a lock file is left without one.

    Raises:
        RunError: the lock file cannot be read, or gradalign did not write it.
    """
    with _guard:
        own = _here.get(folder.identity)
    if own is not None and own["pid"] == os.getpid():
        return _who(own)
    if folder.local:
        try:
            return _who_has_locked(folder.path(LOCK_NAME))
        except _NoLocksError:
            pass
    holder = _StoreLock(folder, folder.path(LOCK_NAME), {}).holder()
    return None if holder is None or _stale(holder) else _who(holder)


class _NoLocksError(Exception):
    """The disk has no locks; what stands in the file counts then."""


def _who_has_locked(path: str) -> str | None:
    """Return who has a file locked, found by a shared lock that is given back at once.

    Raises:
        _NoLocksError: this disk or system has none.
        RunError: the file cannot be opened.
    """
    try:
        import fcntl
    except ImportError as error:  # not on Windows
        raise _NoLocksError from error
    try:
        with open(path, "rb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _who(_read(file.read(4096)))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from error
        raise RunError(
            f"{path} cannot be read: {error.strerror}.", "Check the rights to the folder."
        ) from error
    return None


@contextmanager
def _disk_lock(folder: RunFolder, owner: dict[str, Any]) -> Iterator[None]:
    path = folder.path(LOCK_NAME)
    made = _make(folder)
    try:
        descriptor = _locked_file(folder, path, owner)
        if descriptor is None:
            with _store_lock(folder, owner):
                yield
            return
        try:
            yield
        finally:
            # While it is locked: whoever opened it in the meantime sees that it is gone.
            with suppress(OSError):
                os.unlink(path)
            os.close(descriptor)
    finally:
        for made_path in made:
            with suppress(OSError):  # not empty any more: it holds a run
                os.rmdir(made_path)


def _make(folder: RunFolder) -> list[str]:
    """Make the folder and return what had to be made, the deepest first."""
    missing = []
    place = folder.root
    while place and not os.path.lexists(place):
        missing.append(place)
        place = os.path.dirname(place)
    try:
        os.makedirs(folder.root, exist_ok=True)
    except OSError as error:
        raise write_error(folder.root, error) from error
    return missing


def _locked_file(folder: RunFolder, path: str, owner: dict[str, Any]) -> int | None:
    """Return the open, locked file; None where the disk has no locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise write_error(path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _taken(folder, _read(os.pread(descriptor, 4096, 0))) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise write_error(path, error) from error
                os.close(descriptor)
                return None
            if not _same_file(descriptor, path):  # its holder has just ended and removed it
                os.close(descriptor)
                continue
            before = os.pread(descriptor, 4096, 0)
            if before and not _read(before):
                raise RunError(
                    f"{path} is in the way: gradalign did not write it.",
                    "Choose another --output-dir.",
                )
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner).encode(), 0)
            except OSError as error:
                os.unlink(path)
                raise write_error(path, error) from error
            return descriptor
        except RunError:
            os.close(descriptor)
            raise


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _store_lock(folder: RunFolder, owner: dict[str, Any]) -> Iterator[None]:
    path = folder.path(LOCK_NAME)
    lock = _StoreLock(folder, path, owner)
    lock.take()
    ended = threading.Event()
    keeper = threading.Thread(target=lock.keep, args=(ended,), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        lock.give_back()


class _StoreLock:
    """A file that only its maker may have made."""

    def __init__(self, folder: RunFolder, path: str, owner: dict[str, Any]) -> None:
        self._folder, self._path, self._owner = folder, path, owner

    def take(self) -> None:
        """Make the file.

        Raises:
            RunError: somebody else has it, or it cannot be written.
        """
        holder = self.holder()
        if holder is not None:
            if not _stale(holder):
                raise _taken(self._folder, holder)
            if self.holder() == holder:
                with suppress(FileNotFoundError):
                    self._folder.fs.rm_file(self._path)
        try:
            exclusive = self._create()
        except FileExistsError:
            raise _taken(self._folder, self.holder() or {}) from None
        except OSError as error:
            raise write_error(self._path, error) from error
        if not exclusive or holder is not None:
            # Two may have come at once: whoever wrote last has it, and both see that.
            time.sleep(_SETTLE_SECONDS)
        now = self.holder() or {}
        if now.get("token") != self._owner["token"]:
            raise _taken(self._folder, now)

    def keep(self, ended: threading.Event) -> None:
        """Renew the file until the event; leave it alone once it is somebody else's."""
        while not ended.wait(RENEW_SECONDS):
            with suppress(OSError):  # the store may be away for a while
                if (self.holder() or {}).get("token") != self._owner["token"]:
                    return
                self._owner["renewed"] = time.time()
                self._folder.fs.pipe_file(self._path, self._bytes())

    def give_back(self) -> None:
        """Remove the file if it is still ours."""
        with suppress(OSError):  # it goes out of date by itself
            if (self.holder() or {}).get("token") == self._owner["token"]:
                self._folder.fs.rm_file(self._path)

    def _create(self) -> bool:
        """Make the file; return whether the store saw to it that it was not there."""
        if self._folder.local:
            with open(self._path, "xb") as file:
                file.write(self._bytes())
            return True
        try:
            self._folder.fs.pipe_file(self._path, self._bytes(), mode="create")
            return True
        except (TypeError, ValueError, NotImplementedError):  # it does not know how
            self._folder.fs.pipe_file(self._path, self._bytes())
            return False

    def _bytes(self) -> bytes:
        return json.dumps(self._owner).encode()

    def holder(self) -> dict[str, Any] | None:
        """Return what stands in the file; None where there is none."""
        try:
            data = self._folder.fs.cat_file(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(
                f"{self._path} cannot be read: {error}.", "Check that the store can be reached."
            ) from error
        holder = _read(bytes(data))
        if not holder and data:
            raise RunError(
                f"{self._path} is in the way: gradalign did not write it.",
                "Choose another --output-dir.",
            )
        return holder


def _owner() -> dict[str, Any]:
    return {
        "tool": "gradalign",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "renewed": time.time(),
        "token": uuid.uuid4().hex,
    }


def _read(data: bytes) -> dict[str, Any]:
    """Read who holds a lock; nothing if that is not there (yet)."""
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) and holder.get("tool") == "gradalign" else {}


def _stale(holder: dict[str, Any]) -> bool:
    """Whether a lock that is a mere file belongs to nobody any more."""
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        try:
            os.kill(holder["pid"], 0)
        except ProcessLookupError:
            return True
        except OSError:  # there, and another user's
            pass
    return time.time() - float(holder.get("renewed") or 0.0) > STALE_SECONDS


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process is at work there"
    return (
        f"process {holder.get('pid')} on {holder.get('host')} has been at work there since "
        f"{holder.get('since')}"
    )


def _taken(folder: RunFolder, holder: dict[str, Any]) -> RunError:
    return RunError(
        f"{folder.url} is in use: {_who(holder)}.",
        "Wait until it has ended, or choose another --output-dir.",
    )
