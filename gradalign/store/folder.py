"""A run folder, local or an fsspec URL: whole tables or none, never half of one."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from gradalign.errors import RunError
from gradalign.store.schema import schema, table_names

LOCK_NAME = ".gradalign.lock"
"""Held by whoever writes the run (see `gradalign.store.lock`)."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
# A shard's, a teacher's part of one, or what is of the whole run.
_SHARD = re.compile(r"(shard-\d+(-.*)?|all)\.parquet", re.DOTALL)
_SUMMARIES = ("summary.parquet", "summary.json")


class RunFolder:
    """Reads and writes the files of one run.

    A file is written under a temporary name in the same folder and renamed (local disks) or
    uploaded in one request (object stores): it is there whole or not at all.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url)
        try:
            if "://" in self.url:
                self.fs, self.root = fsspec.core.url_to_fs(self.url)
            else:  # a path, whatever it is made of: fsspec would take :: for a chain of URLs
                self.fs = fsspec.filesystem("file")
                self.root = os.path.abspath(os.path.expanduser(self.url))
        except (ImportError, ValueError) as error:
            raise RunError(
                f"cannot use {self.url}: {error}.", "Install the fsspec back end for this URL."
            ) from error
        self.root = self.root.rstrip("/")
        protocol = self.fs.protocol
        self.local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def identity(self) -> str:
        """The folder's one name, however it is spelled."""
        return (
            os.path.realpath(self.root) if self.local else str(self.fs.unstrip_protocol(self.root))
        )

    def path(self, *parts: str) -> str:
        """Return a path inside the run."""
        return "/".join((self.root, *parts))

    def exists(self, *parts: str) -> bool:
        """Whether a file is there."""
        return bool(self.fs.exists(self.path(*parts)))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file or nothing.

        Raises:
            RunError: the folder cannot be written or the disk is full.
        """
        target = self.path(*name.split("/"))
        folder = target.rsplit("/", 1)[0]
        try:
            self.fs.makedirs(folder, exist_ok=True)
            if not self.local:
                self.fs.pipe_file(target, data)
                return
            temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            finally:
                if os.path.exists(temporary):
                    os.unlink(temporary)
        except OSError as error:
            raise write_error(target, error) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON, indented, in place of the file of that name."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            RunError: it is missing or torn.
        """
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except FileNotFoundError as error:
            raise RunError(
                f"{self.url} holds no {name}.", "Give the folder that `gradalign score` wrote."
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path(name)} cannot be read: {error}.", "Restore or delete it."
            ) from error

    def write_summary(self, rows: pa.Table) -> None:
        """Write summary.parquet."""
        self._write_parquet("summary.parquet", "summary", rows)

    def write_table(self, table: str, file_name: str, rows: pa.Table) -> None:
        """Write one parquet file of a table, `file_name` without its ending."""
        self._write_parquet(f"{table}/{file_name}.parquet", table, rows)

    def _write_parquet(self, name: str, table: str, rows: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(rows.cast(schema(table)), sink, compression="zstd", version="2.6")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def has_table(self, table: str, file_name: str) -> bool:
        """Whether one parquet file of a table is there."""
        return self.exists(table, f"{file_name}.parquet")

    def read_table(
        self, table: str, file_name: str, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read one parquet file of a table.

        Args:
            table: its name.
            file_name: of the file, without its ending.
            columns: what is wanted; None for all.

        Raises:
            RunError: it is missing or torn; the message names it.
        """
        path = self.path(table, f"{file_name}.parquet")
        try:
            with self.open_parquet(path) as file:
                return file.read(columns=None if columns is None else list(columns))
        except FileNotFoundError as error:
            raise RunError(
                f"{path} is missing.", "Give the run's `gradalign score` command again."
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"{path} is torn: {error}.",
                "Delete this file and give the run's `gradalign score` command again.",
            ) from error

    @contextmanager
    def open_parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        """Open a parquet file of the run by its path.

        It never reads through a Python object: a thread of pyarrow may let go of its source when
        this process is ending already, and if that takes the interpreter's lock the process
        aborts (status 134) after all of its work is done.
        """
        source: Any = path
        if not self.local:
            copy = pa.BufferOutputStream()
            copy.write(self.fs.cat_file(path))
            source = pa.BufferReader(copy.getvalue())
        with pq.ParquetFile(source) as file:
            yield file

    def files(self, table: str) -> list[str]:
        """Return the names (without ending) of a table's files, sorted."""
        folder = self.path(table)
        if not self.fs.isdir(folder):
            return []
        names = (str(path).rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False))
        return sorted(name.removesuffix(".parquet") for name in names if _SHARD.fullmatch(name))

    def contents(self) -> list[str]:
        """Return the names at the top of the folder, but for what is gone when a run ends."""
        return [
            name for name in self._names() if name != LOCK_NAME and not _TEMPORARY.fullmatch(name)
        ]

    def foreign(self) -> list[str]:
        """Return the names at the top of the folder that are no run's."""
        own = {"run.json", *_SUMMARIES, *table_names()}
        return [name for name in self.contents() if name not in own]

    def _names(self, *parts: str) -> list[str]:
        folder = self.path(*parts)
        if not self.fs.isdir(folder):
            return []
        return sorted(
            str(path).rstrip("/").rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)
        )

    def remove_tables(self, tables: Iterable[str] | None = None) -> None:
        """Delete tables, and the summary; nothing that a run does not write.

        Args:
            tables: names of tables; all of them by default.
        """
        for name in _SUMMARIES:
            self._remove_file(name)
        for table in table_names() if tables is None else tables:
            for name in self._names(table):
                if _SHARD.fullmatch(name) or _TEMPORARY.fullmatch(name):
                    self._remove_file(table, name)
            if self.local and not os.path.islink(self.path(table)):
                with suppress(OSError):  # not there, or it holds something else
                    os.rmdir(self.path(table))

    def remove_table(self, table: str, file_name: str) -> None:
        """Delete one parquet file of a table, if it is there."""
        self._remove_file(table, f"{file_name}.parquet")

    def _remove_file(self, *parts: str) -> None:
        """Delete one file by its exact name, if it is there.

        `rm` of most file systems would take *, ? and [ in the name for a pattern.
        """
        path = self.path(*parts)
        try:
            if self.local:
                os.unlink(path)
            elif self.fs.exists(path):
                self.fs.rm_file(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise write_error(path, error) from error

    def check_writable(self) -> None:
        """Fail now rather than after hours.

        Raises:
            RunError: the folder cannot be written.
        """
        name = f".{uuid.uuid4().hex}.tmp"
        self.write_bytes(name, b"")
        self._remove_file(name)

    def check_creatable(self) -> None:
        """Fail if it is plain that the folder cannot be written; touch nothing.

        Raises:
            RunError: it is a file, or it or the folder that it would be made in is not writable.
        """
        if not self.local:
            return
        place = self.root
        while place and not os.path.lexists(place):
            place = os.path.dirname(place)
        place = place or "/"
        if not os.path.isdir(place):
            raise write_error(place, NotADirectoryError(20, "it is not a folder"))
        if not os.access(place, os.W_OK | os.X_OK):
            raise write_error(place, PermissionError(13, "it is not writable"))


def write_error(path: str, error: OSError) -> RunError:
    """Return what a failed write of a run is reported as."""
    return RunError(
        f"cannot write {path}: {error.strerror or error}.",
        "Free disk space or choose a writable --output-dir; finished shards are kept.",
    )
