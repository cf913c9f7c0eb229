"""Reading a benchmark's data: from the hub at a fixed commit, its cache, or local files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradalign.errors import TaskError
from gradalign.tasks.benchmark_rows import Benchmark
from gradalign.tasks.files import file_hash
from gradalign.tasks.local_rows import SUFFIXES, read_file, read_folder

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_local(
    benchmark: Benchmark, path: Path, subset: str | None = None, split: str | None = None
) -> tuple[Any, str]:
    """Read a file, or a folder that is a copy of the hub's repository.

    Args:
        benchmark: whose schema the data has.
        path: a .jsonl, .json, .parquet or .csv file, or a folder.
        subset: of a folder, None for the benchmark's.
        split: of a folder, None for the benchmark's.

    Returns:
        The data set and its fingerprint.

    Raises:
        TaskError: it does not exist or cannot be read.
    """
    name = benchmark.name
    if path.is_dir():
        import datasets

        with _explained(name, str(path)), _quiet(datasets):
            data = read_folder(path, subset or benchmark.subset, split or benchmark.split)
        return data, f"folder:{_content_hash(data)}"
    if not path.is_file():
        raise TaskError(f"task {name}: {path} does not exist.", "Check the path.")
    if path.suffix not in SUFFIXES:
        raise TaskError(
            f"task {name}: {path} has an unknown suffix.", f"Known: {', '.join(SUFFIXES)}."
        )
    before = file_hash(path)
    try:
        rows = read_file(path)
    except TaskError as error:
        raise TaskError(f"task {name}: {error.message}", error.hint) from error
    if file_hash(path) != before:
        raise TaskError(f"task {name}: {path} was changed while it was read.", "Try again.")
    return rows, before


def load_hub(
    benchmark: Benchmark,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> tuple[Any, str]:
    """Read from the hub at a commit that is resolved first, or from the cache without the hub.

    Args:
        benchmark: which data set.
        subset: None for the benchmark's.
        split: None for the benchmark's.
        revision: branch, tag or commit, None for the newest.

    Returns:
        The data set and its fingerprint, `repository@commit`.

    Raises:
        TaskError: not there, gated, or neither on the hub nor in the cache.
    """
    import datasets

    subset = subset or benchmark.subset
    split = split or benchmark.split
    commit, trouble = _resolve_commit(benchmark, revision)
    with _explained(benchmark.name, benchmark.repository, benchmark.gated, trouble):
        if commit is not None:
            data = datasets.load_dataset(benchmark.repository, subset, split=split, revision=commit)
            return data, f"{benchmark.repository}@{commit}"
        with _offline(datasets):
            data = datasets.load_dataset(benchmark.repository, subset, split=split)
    commit = _cached_commit(data)
    if revision is not None and commit != revision:
        raise TaskError(
            f"task {benchmark.name}: the hub cannot be reached, and the cache holds "
            f"{benchmark.repository} at {commit or 'an unknown commit'}, not at "
            f"{revision}.",
            "Connect once, or leave out the revision.",
        )
    return data, f"{benchmark.repository}@{commit or _content_hash(data)}"


def _resolve_commit(benchmark: Benchmark, revision: str | None) -> tuple[str | None, str]:
    """Ask the hub which commit a revision is; None, and why, if it cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(benchmark.repository, revision=revision, timeout=20.0)
        return info.sha, ""
    except RevisionNotFoundError as error:
        raise TaskError(
            f"task {benchmark.name}: {benchmark.repository} has no revision {revision}.",
            "Give a branch, a tag or a commit of the hub's repository.",
        ) from error
    except RepositoryNotFoundError as error:
        raise TaskError(
            f"task {benchmark.name}: the hub does not show {benchmark.repository}.",
            "It may have been moved or be private: log in with `hf auth login`, or give a local "
            f"copy, {benchmark.name}:path=FILE.",
        ) from error
    except Exception as error:  # no network, a proxy's page, offline mode: many kinds of error
        return None, _first_line(error)


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Let `datasets` look into its cache at once, not after half a minute of retries."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Draw no progress bar for a file that is already here."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _explained(name: str, source: str, gated: bool = False, trouble: str = "") -> Iterator[None]:
    """Turn the errors of `datasets` into one TaskError that says what to do."""
    try:
        yield
    except Exception as error:  # the readers of each format have their own errors
        kinds = {kind.__name__ for kind in type(error).__mro__}
        cause = error.__cause__ if error.__cause__ is not None else error
        base = name.partition(":")[0]
        if kinds & {"ConnectionError", "OfflineModeIsEnabled"}:
            raise TaskError(
                f"task {base}: {source} is not in the cache and the hub cannot be reached "
                f"({trouble or _first_line(error)}).",
                f"Run once with a connection, or download the data and give {base}:path=FILE.",
            ) from error
        if "gated" in str(error):
            raise TaskError(
                f"task {base}: {source} is gated on the hub.",
                "Accept its terms on its page there and log in with `hf auth login`, or give a "
                f"local copy, {base}:path=FILE.",
            ) from error
        hint = f"Check the file, the subset and the split; {base}:path=FILE takes a local copy."
        if gated:
            hint += " The data set is gated: accept its terms and log in with `hf auth login`."
        raise TaskError(
            f"task {base}: {source} cannot be read: {_first_line(cause)}", hint
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cached_commit(data: Any) -> str | None:
    """Read the commit from the cache folder that a data set was loaded from."""
    for file in data.cache_files:
        parents = [parent.name for parent in Path(file["filename"]).parents]
        for parent in parents:
            if _COMMIT.fullmatch(parent):
                return parent
    return None


def _content_hash(data: Any) -> str:
    """Hash the rows themselves."""
    digest = hashlib.sha256()
    for row in data:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return "sha256:" + digest.hexdigest()
