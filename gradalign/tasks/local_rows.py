"""A benchmark's local file or folder, as it is now: no cache, and no name read as a pattern."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

from gradalign.errors import TaskError
from gradalign.tasks.files import read_rows

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")

_TRUTH = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}


class LocalRows:
    """Rows of a file, with as much of a data set's interface as tasks use.

    Args:
        rows: each a mapping of columns; a column that a row lacks is None there.

    Attributes:
        column_names: of all rows together.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = list(rows)
        self.column_names = list(dict.fromkeys(name for row in self._rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...

    def __getitem__(self, key: int | str) -> dict[str, Any] | list[Any]:
        if isinstance(key, str):
            return [row.get(key) for row in self._rows]
        return {name: self._rows[key].get(name) for name in self.column_names}


def read_file(path: Path) -> LocalRows:
    """Read a .jsonl, .json, .parquet or .csv file.

    A .json file holds a list of rows, one row per line, or an object of columns. The fields of
    a .csv file stay the texts that they are, but for columns of truth values.

    Raises:
        TaskError: it cannot be read, or holds no rows.
    """
    if path.suffix == ".csv":
        rows = _read_csv(path)
    elif path.suffix == ".json":
        rows = _read_json(path)
    else:
        rows = [row for row, _ in read_rows(path)]
    if not rows:
        raise TaskError(f"{path} holds no rows.", "It needs one row per question.")
    return LocalRows(rows)


def read_folder(path: Path, subset: str | None, split: str) -> Any:
    """Read a folder that is a copy of the hub's repository with `datasets`.

    `datasets` keeps what it has read under the path and the time stamps of the files, and takes
    *, ? and [ in a path for a pattern. So it gets an empty cache, and a plain name.

    Args:
        path: the folder.
        subset: None for the default one.
        split: the split.
    """
    import datasets

    with tempfile.TemporaryDirectory(prefix="gradalign-") as scratch:
        data = Path(scratch).resolve() / "data"
        _mirror(path.resolve(), data)
        return datasets.load_dataset(
            str(data),
            subset,
            split=split,
            cache_dir=str(Path(scratch) / "cache"),
            keep_in_memory=True,
        )


def _mirror(source: Path, target: Path) -> None:
    """Make the folders of a folder elsewhere, with a link to each file; `.git` is left out."""
    for place, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if name != ".git"]
        here = target / Path(place).relative_to(source)
        here.mkdir()
        for name in files:
            (here / name).symlink_to(Path(place) / name)


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").strip()
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}.", "") from error
    if data.startswith(b"["):
        return [row for row, _ in read_rows(path)]
    if b"\n" in data:
        try:
            whole = json.loads(data)
        except ValueError:  # one row per line, or broken: then the line is named
            whole = None
        if isinstance(whole, dict):
            return _columns(whole)
    return [row for row, _ in read_rows(path, ".jsonl")]


def _columns(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn an object of columns into rows; any other object is a row itself."""
    values = list(whole.values())
    if not values or not all(isinstance(value, list) for value in values):
        return [whole]
    if len({len(value) for value in values}) > 1:
        return [whole]
    return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, names = list(reader), list(reader.fieldnames or ())
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8: {error.reason}.", "Save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise TaskError(f"{path} is not a readable CSV file: {error}.", "Repair it.") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise TaskError(
                f"{path}, row {number} has {'more' if None in row else 'fewer'} fields than the "
                "first line has names.",
                "Put fields with commas or line ends in quotes.",
            )
    for name in names:
        values = {row[name] for row in rows}
        if values <= _TRUTH.keys():
            for row in rows:
                row[name] = _TRUTH[row[name]]
    return [{name: None if value == "" else value for name, value in row.items()} for row in rows]
