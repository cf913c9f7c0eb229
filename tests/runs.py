"""Small real runs on the bundled pair, shared by tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

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


def flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as command-line flags."""
    from gradalign.config import flag_of

    out: list[str] = []
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            out += [flag_of(name), str(item)]
    return out


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read every parquet file of a run, by its path inside the run."""
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pandas()
        for path in sorted(folder.rglob("*.parquet"))
    }


def assert_same_tables(first: Path, second: Path) -> None:
    """Compare two runs, table by table, to the last bit."""
    one, other = tables(first), tables(second)
    assert one.keys() == other.keys()
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True, obj=name)
