"""Two runs side by side."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pytest
from report.made_run import filled, write_run

import gradalign
from gradalign.errors import RunError
from gradalign.report.compare import compare_runs
from gradalign.store.folder import RunFolder
from gradalign.store.table_builder import Rows


def made(folder, arms, **options):
    write_run(folder, arms, **options)
    return gradalign.read_report(str(folder))


def with_spines(report, token):
    """Give a made run responses, so that nodes can coincide."""
    run = RunFolder(report.path)
    for shard in run.files("questions"):
        names = run.read_table("questions", shard)["question_id"].to_pylist()
        rows = Rows("spines")
        for name in names:
            own = {
                "question_id": name,
                "spine_id": f"{name}/0",
                "token_ids": [[token] * 12],
                "correct": True,
            }
            rows.add(**{**filled("spines"), **own})
        run.write_table("spines", shard, rows.table_of())
    return report


def test_a_run_equals_itself(small_run, tmp_path):
    shutil.copytree(small_run.path, tmp_path / "copy")
    rows = compare_runs(small_run, gradalign.read_report(str(tmp_path / "copy")))
    assert {(row.teacher, row.method) for row in rows} == set(
        zip(small_run.summary["teacher"], small_run.summary["method"], strict=True)
    )
    for row in rows:
        assert row.pairing == "nodes"
        assert row.difference.value == pytest.approx(0.0, abs=1e-12) or not row.difference.known


def test_shared_nodes_are_paired(tmp_path):
    first = with_spines(made(tmp_path / "a", {("t", "gkd"): 0.3}, seed=1), 7)
    second = with_spines(made(tmp_path / "b", {("t", "gkd"): 0.7}, seed=2), 7)
    (row,) = compare_runs(first, second)
    assert row.pairing == "nodes"
    assert row.difference.value == pytest.approx(0.4, abs=0.15)
    assert (
        abs(row.difference.value - 0.4) < row.difference.high - row.difference.low
    )  # within four standard errors
    assert row.difference.adjusted_p < 0.05


def test_other_responses_pair_by_question(tmp_path):
    first = with_spines(made(tmp_path / "a", {("t", "gkd"): 0.5}, seed=1), 7)
    second = with_spines(made(tmp_path / "b", {("t", "gkd"): 0.5}, seed=2), 8)
    (row,) = compare_runs(first, second)
    assert row.pairing == "questions"
    assert row.difference.low < 0 < row.difference.high


def test_other_questions_are_independent(tmp_path):
    first = with_spines(made(tmp_path / "a", {("t", "gkd"): 0.2}, questions=40, seed=1), 7)
    second = with_spines(made(tmp_path / "b", {("t", "gkd"): 0.8}, questions=40, seed=2), 7)
    for table in ("nodes", "alignment", "spines", "questions"):
        for shard in RunFolder(second.path).files(table):
            frame = RunFolder(second.path).read_table(table, shard).to_pandas()
            for column in ("question_id", "spine_id", "node_id"):
                if column in frame:
                    frame[column] = "other-" + frame[column].astype(str)
            RunFolder(second.path).write_table(table, shard, pa.Table.from_pandas(frame))
    (row,) = compare_runs(first, gradalign.read_report(second.path))
    assert row.pairing == "none"
    assert abs(row.difference.value - 0.6) < row.difference.high - row.difference.low
    assert row.difference.p_value < 0.001


def test_nothing_in_common(tmp_path):
    first = with_spines(made(tmp_path / "a", {("t", "gkd"): 0.2}), 7)
    second = with_spines(made(tmp_path / "b", {("u", "gkd"): 0.2}), 7)
    with pytest.raises(RunError, match="share no teacher and method"):
        compare_runs(first, second)
