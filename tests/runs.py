"""Small real runs on the bundled pair, shared by tests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

import gradalign
from gradalign.config import ScoreConfig
from gradalign.report.report import Report

SMALL: dict[str, Any] = {
    "student": "demo:student",
    "teachers": ["demo:strong", "self+answer"],
    "task": "demo:addition",
    "methods": ["gkd", "opd", "minillm", "dr_grpo", "random"],
    "limit": 3,
    "num_rollouts": 2,
    "nodes": 4,
    "continuations": 4,
    "shard_size": 1,
    "bootstrap_resamples": 200,
    "engine": "transformers",
}
"""Settings of a run that takes a few seconds."""

TINY: dict[str, Any] = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "methods": ["gkd"],
    "limit": 1,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "bootstrap_resamples": 100,
    "diagnose": ["none"],
    "engine": "transformers",
}
"""Settings of the shortest run that does every stage but the diagnoses."""

PROVOKED: dict[str, Any] = {
    "student": "demo:student",
    "task": "demo:addition",
    "engine": "transformers",
    "bootstrap_resamples": 500,
}
"""What runs have in common in which the diagnostics see each mechanism."""

INFORMED: dict[str, Any] = {
    **PROVOKED,
    "teachers": [
        "demo:strong",
        "self+answer",
        "self+wrong-answer",
        "demo:student+answer",
        "demo:student+solution",
    ],
    "methods": ["opd", "minillm"],
    "limit": 8,
    "num_rollouts": 2,
    "nodes": 6,
    "continuations": 6,
    "shard_size": 4,
}
"""One checkpoint in contexts that agree and that contradict each other, under two names."""


class FinishedRuns:
    """Finished runs by their settings: each is made once in a test session, by any worker.

    Args:
        root: a folder that all workers of this session share, and no other session.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root.mkdir(exist_ok=True)
        self._source = _digest(
            *(path.read_bytes() for path in sorted(Path(gradalign.__file__).parent.rglob("*.py")))
        )
        self._given: set[Path] = set()

    def get(self, **settings: Any) -> Report:
        """Return the run of these settings, which others read too: do not change its folder.

        Whatever else decides the result must not change either: use it for bundled models and
        tasks, not for files of one test.
        """
        folder = self._root / self._key(settings)
        with (self._root / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
            made = self._root / f"{folder.name}.json"
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
                gradalign.score(**settings, output_dir=str(folder / "run"))
                made.write_text(json.dumps(stamps(folder)))
        self._given.add(folder)
        self.check()
        return gradalign.read_report(str(folder / "run"))

    def copy(self, folder: Path, **settings: Any) -> Report:
        """Copy the run of these settings to `folder`, to be changed."""
        shutil.copytree(self.get(**settings).path, folder)
        return gradalign.read_report(str(folder))

    def check(self) -> None:
        """Fail where a run that was given to a test is not as it was made."""
        for folder in self._given:
            made = json.loads((self._root / f"{folder.name}.json").read_text())
            assert stamps(folder) == made, "a test has changed a run that others read"

    def _key(self, settings: dict[str, Any]) -> str:
        config = ScoreConfig.build({**settings, "output_dir": "run"}).model_dump(mode="json")
        return _digest(json.dumps(config, sort_keys=True).encode(), self._source.encode())


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def stamps(folder: Path) -> dict[str, list[int]]:
    """Time of the last change and size of every file below a folder."""
    return {
        str(path.relative_to(folder)): [path.stat().st_mtime_ns, path.stat().st_size]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as command-line flags."""
    from gradalign.config import flag_of

    out: list[str] = []
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            out += [flag_of(name), str(item)]
    return out


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read every parquet file of a folder, by its path inside it."""
    return {name: pq.read_table(path).to_pandas() for name, path in _files(folder).items()}


def assert_same_tables(first: Path, second: Path) -> None:
    """Compare two runs, table by table, to the last bit."""
    one, other = _files(first), _files(second)
    assert one.keys() == other.keys()
    for name, path in one.items():
        if path.read_bytes() == other[name].read_bytes():
            continue  # as files of the same table mostly are; to read them takes much longer
        left, right = (pq.read_table(file).to_pandas() for file in (path, other[name]))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.parquet"))}
