"""Reading a run back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gradalign
from gradalign.errors import RunError


def test_tables_are_frames_read_when_asked_for(small_run):
    report = gradalign.read_report(small_run.path)
    assert "alignment" not in vars(report)
    assert len(report.alignment) == len(small_run.alignment)
    assert "alignment" in vars(report)
    pd.testing.assert_frame_equal(report.summary, small_run.summary)
    assert report.config == small_run.config


def test_one_question_and_some_columns(small_run):
    question = str(small_run.questions["question_id"].iloc[1])
    part = small_run.table("alignment", ["question_id", "cosine"], question_id=question)
    whole = small_run.alignment
    assert list(part.columns) == ["question_id", "cosine"]
    assert len(part) == (whole["question_id"] == question).sum() > 0


def test_a_torn_file_is_named_and_the_rest_opens(small_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small_run.path, folder)
    torn = folder / "nodes" / "shard-00001.parquet"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    report = gradalign.read_report(str(folder))
    with pytest.warns(UserWarning, match=r"nodes/shard-00001\.parquet is torn"):
        nodes = report.nodes
    assert 0 < len(nodes) < len(small_run.nodes)
    assert len(report.alignment) == len(small_run.alignment)


def test_an_unfinished_run_opens_and_says_so(small_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small_run.path, folder)
    (folder / "summary.parquet").unlink()
    report = gradalign.read_report(str(folder))
    assert len(report.spines) == 6
    with pytest.raises(RunError, match=r"is not finished: .* its summary is missing"):
        _ = report.summary


@pytest.mark.parametrize(("version", "said"), [("999", "999"), ("0", "0"), ("", "unknown")])
def test_another_schema_version_says_what_to_do(small_run, tmp_path, version, said):
    folder = tmp_path / "run"
    folder.mkdir()
    data = json.loads((Path(small_run.path) / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**data, "schema_version": version}))
    wanted = f"schema version {said},.*Upgrade gradalign.*{data['versions']['gradalign']}"
    with pytest.raises(RunError, match=wanted):
        gradalign.read_report(str(folder))


def test_summary_json_holds_the_summary(small_run):
    records = json.loads((Path(small_run.path) / "summary.json").read_text())
    pooled = [np.nan if record["pooled"] is None else record["pooled"] for record in records]
    np.testing.assert_allclose(pooled, small_run.summary["pooled"], atol=1e-12)


def test_run_json_says_what_ran(small_run):
    data = small_run.metadata
    assert data["versions"]["torch"]
    assert data["hardware"]["cpus"] >= 1
    assert data["models"]["demo:student"]["template"].startswith("sha256:")
    assert data["stages"]["branch"]["counts"]["continuations"] == (data["totals"]["continuations"])
    assert data["task"]["name"] == "demo:addition"
    (start,) = data["engine_starts"]  # from sampling to targeted rollouts one engine
    assert start["use"] == "sample"
    assert 0 < start["seconds"] <= data["stages"]["sample"]["opening_seconds"]
    assert data["plan"]["engine"]["number"] == 1
