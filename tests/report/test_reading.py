"""What else reads a run: older versions, other programs, notebooks, figures."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow.parquet as pq
import pytest

import gradalign
from gradalign.errors import MissingDependencyError, RunError, UsageError
from gradalign.report.format import interval
from gradalign.store.schema import table_names


@pytest.fixture
def copy(small_run, tmp_path) -> Path:
    shutil.copytree(small_run.path, tmp_path / "run")
    return tmp_path / "run"


def test_pandas_duckdb_and_polars_read_the_same(small_run):
    for name in table_names():
        folder = Path(small_run.path) / name
        if name == "summary" or not folder.exists():
            continue
        rows = len(small_run.table(name))
        assert len(pd.read_parquet(folder)) == rows, name
        pattern = f"{folder}/*.parquet"
        assert duckdb.sql(f"select count(*) from '{pattern}'").fetchall() == [(rows,)]
        assert polars.read_parquet(pattern).height == rows
    pattern = f"{small_run.path}/alignment/*.parquet"
    expected = small_run.alignment.groupby("method", observed=True)["dot"].sum()
    by_duckdb = duckdb.sql(f"select method, sum(dot) from '{pattern}' group by method").fetchall()
    np.testing.assert_allclose([dict(by_duckdb)[key] for key in expected.index], expected)
    by_polars = polars.read_parquet(pattern).group_by("method").agg(polars.col("dot").sum())
    found = dict(zip(by_polars["method"].to_list(), by_polars["dot"].to_list(), strict=True))
    np.testing.assert_allclose([found[key] for key in expected.index], expected)


def test_a_column_that_an_older_version_lacks_is_empty(copy, small_run):
    for path in (copy / "alignment").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["norm_on_support", "reason"]), path)
    frame = gradalign.read_report(str(copy)).alignment
    assert list(frame.columns) == list(small_run.alignment.columns)
    assert frame["norm_on_support"].isna().all()
    assert frame["reason"].isna().all()
    pd.testing.assert_series_equal(frame["dot"], small_run.alignment["dot"])


def test_a_torn_run_json_leaves_the_tables(copy, small_run):
    (copy / "run.json").write_text('{"config": {')
    with pytest.warns(UserWarning, match=r"run\.json cannot be read"):
        report = gradalign.read_report(str(copy))
    assert len(report.nodes) == len(small_run.nodes)
    assert len(report.summary) == len(small_run.summary)
    with pytest.raises(RunError, match=r"run\.json is torn"):
        _ = report.config


def test_a_torn_summary_is_read_from_json(copy, small_run):
    path = copy / "summary.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    report = gradalign.read_report(str(copy))
    with pytest.warns(UserWarning, match=r"summary\.parquet is torn"):
        summary = report.summary
    np.testing.assert_allclose(summary["pooled"], small_run.summary["pooled"], atol=1e-12)
    assert list(summary.columns) == list(small_run.summary.columns)


def test_one_question_reads_one_shard(small_run, copy):
    """Files of other shards are not opened: here they could not be."""
    question = small_run.question_ids[1]
    for path in (copy / "nodes").glob("*.parquet"):
        if not path.name.startswith("shard-00001"):
            path.write_bytes(b"nothing")
    report = gradalign.read_report(str(copy))
    assert len(report.table("nodes", question_id=question)) > 0


def test_unknown_tables_columns_and_questions(small_run):
    with pytest.raises(UsageError, match="no table 'node'"):
        small_run.table("node")
    with pytest.raises(UsageError, match="no column 'valu'"):
        small_run.table("nodes", ["valu"])
    with pytest.raises(UsageError, match="no question '1'"):
        small_run.table("nodes", question_id="1")


def test_a_notebook_shows_the_summary(small_run):
    html = small_run._repr_html_()
    row = small_run.summary.query("split == 'all'").iloc[0]
    assert interval(row["pooled"], row["pooled_low"], row["pooled_high"]) in html
    assert html.count("<tr") == 1 + len(small_run.summary.query("split == 'all'"))
    assert "<script" not in html
    assert small_run.recommend().headline.split(":")[0] in small_run.recommend()._repr_html_()


def test_a_run_without_a_summary_shows_its_status(copy):
    (copy / "summary.parquet").unlink()
    assert "no summary yet" in gradalign.read_report(str(copy))._repr_html_()


def test_figures_hold_the_numbers(small_run):
    methods = small_run.plot.methods()
    drawn = sorted(float(x) for trace in methods.data for x in trace.x if x == x)
    expected = small_run.summary.query("split == 'all'")["pooled"].dropna()
    np.testing.assert_allclose(drawn, sorted(expected))
    lines = small_run.plot.positions("gkd")
    assert [trace.name for trace in lines.data] == ["demo:strong", "self+answer"]
    assert len(small_run.plot.entropy("gkd").data[0].y) == 3
    histogram = small_run.plot.distribution("demo:strong", "gkd")
    frame = small_run.alignment.query("teacher == 'demo:strong' and method == 'gkd'")
    assert sum(len(trace.x) for trace in histogram.data) == frame["cosine"].notna().sum()
    spine = str(frame.dropna(subset=["cosine"])["spine_id"].iloc[0])
    heat = small_run.plot.tokens(spine, "demo:strong")
    own = small_run.alignment.query("teacher == 'demo:strong' and spine_id == @spine")
    np.testing.assert_allclose(np.nansum(heat.data[0].z), own["cosine"].sum())
    with pytest.raises(UsageError, match="no teacher 'x'"):
        small_run.plot.distribution("x")
    with pytest.raises(UsageError, match="no spine"):
        small_run.plot.tokens("nowhere/0")


def test_without_plotly_it_says_what_to_install(small_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingDependencyError, match=r"gradalign\[report\]"):
        small_run.plot.methods()
