"""The share of positive cosines does not depend on rounding."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from runs import SMALL

import gradalign
from gradalign.store.folder import RunFolder
from gradalign.store.schema import schema


def test_halves_that_cancel_are_not_above_zero(small_run, tmp_path):
    """Cross-fitted cosines of exactly 0 come out as +-1e-16, as the order of additions has it."""
    folder = tmp_path / "run"
    shutil.copytree(small_run.path, folder)
    run = RunFolder(str(folder))
    wanted, exact = {}, 0
    for shard in run.files("alignment"):
        frame = run.read_table("alignment", shard).to_pandas()
        cosine = frame["cosine"].to_numpy()
        exact += int((np.abs(cosine) < 1e-9).sum())
        frame["cosine"] = np.where(np.abs(cosine) < 1e-9, 2e-16, cosine)
        run.write_table("alignment", shard, pa.Table.from_pandas(frame).cast(schema("alignment")))
        known = frame[frame["cosine"].notna()].astype({"teacher": str, "method": str})
        for arm, part in known.groupby(["teacher", "method"]):
            wanted.setdefault(arm, []).extend(part["cosine"] > 1e-9)
    assert exact > 0
    run.remove_tables(())
    report = gradalign.score(**SMALL, output_dir=str(folder))
    for row in report.summary[report.summary["split"] == "all"].itertuples():
        share = wanted[row.teacher, row.method]
        assert row.positive_share == pytest.approx(np.mean(share), abs=1e-12)
