"""A larger --limit on a finished run: what is there stays, new questions come in new shards."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from runs import TINY, stamps, tables

import gradalign
from gradalign.demo.addition import generate
from gradalign.errors import RunError
from gradalign.stages.preparation import growth

SETTINGS = {**TINY, "limit": 2, "shard_size": 1, "display": "none"}
LARGER = {**SETTINGS, "limit": 4}
PER_SHARD = ("questions", "spines", "positions", "continuations", "branches", "nodes", "alignment")


def whole(folder: Path, table: str) -> pd.DataFrame:
    """Join the shards of a table."""
    parts = list(tables(folder / table).values())
    joined = pd.concat(parts, ignore_index=True)
    return joined.astype(
        {name: str for name in joined.columns if joined[name].dtype.name == "category"}
    )


@pytest.fixture
def begun(finished_runs, tmp_path) -> Path:
    return Path(finished_runs.copy(tmp_path / "run", **without_display(SETTINGS)).path)


def without_display(settings):
    return {name: value for name, value in settings.items() if name != "display"}


def assert_equals_a_fresh_run(folder: Path, finished_runs) -> None:
    fresh = finished_runs.get(**without_display(LARGER))
    for table in PER_SHARD:
        pd.testing.assert_frame_equal(
            whole(folder, table), whole(Path(fresh.path), table), check_exact=True, obj=table
        )
    report = gradalign.read_report(str(folder))
    assert report.metadata["status"] == "done"
    assert report.metadata["num_questions"] == 4
    assert report.metadata["totals"] == fresh.metadata["totals"]
    for column in ("pooled", "pooled_low", "pooled_high", "num_nodes"):
        assert report.summary[column].tolist() == pytest.approx(
            fresh.summary[column].tolist(), nan_ok=True
        )
    assert report.config.limit == 4


def test_old_shards_stay_and_new_ones_make_it_the_larger_run(begun, finished_runs):
    before = stamps(begun)
    gradalign.score(**LARGER, output_dir=str(begun))
    after = stamps(begun)
    kept = [name for name in before if "shard-" in name and name.split("/")[0] in PER_SHARD]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    questions = sorted(path.name for path in begun.glob("questions/*"))
    assert questions == [f"shard-0000{number}.parquet" for number in range(4)]
    assert_equals_a_fresh_run(begun, finished_runs)
    # Once more does nothing.
    gradalign.score(**LARGER, output_dir=str(begun))
    assert {name: after[name] for name in kept} == {name: stamps(begun)[name] for name in kept}


def test_an_interruption_while_questions_are_written(begun, finished_runs, monkeypatch):
    def cut_off(run, checked, first=0):
        write(run, checked, first)
        for path in begun.glob("questions/shard-00003*"):
            path.unlink()
        raise KeyboardInterrupt

    write = growth.write_questions
    with monkeypatch.context() as patch:
        patch.setattr(growth, "write_questions", cut_off)
        with pytest.raises(KeyboardInterrupt):
            gradalign.score(**LARGER, output_dir=str(begun))
    gradalign.score(**LARGER, output_dir=str(begun))
    assert_equals_a_fresh_run(begun, finished_runs)


def test_a_shard_that_was_not_full_stays_so(finished_runs, tmp_path):
    """Sums of other batches round otherwise; what is drawn is the same."""
    begin, more = ({**TINY, "shard_size": 2, "limit": limit} for limit in (3, 4))
    folder = Path(finished_runs.copy(tmp_path / "run", **begin).path)
    report = gradalign.score(**more, output_dir=str(folder))
    assert [
        len(report.folder.read_table("questions", s)) for s in report.folder.files("questions")
    ] == [2, 1, 1]
    fresh = finished_runs.get(**more)
    for table in ("spines", "continuations"):
        left, right = whole(folder, table), whole(Path(fresh.path), table)
        drop = [name for name in left.columns if name == "engine_logprobs"]
        pd.testing.assert_frame_equal(left.drop(columns=drop), right.drop(columns=drop))
    ours, theirs = (
        each.summary.astype({"split": str}).sort_values(["method", "split"])["pooled"].tolist()
        for each in (report, fresh)
    )
    assert ours == pytest.approx(theirs, abs=1e-4, nan_ok=True)


def test_a_smaller_limit_is_another_run(begun):
    with pytest.raises(RunError, match="--limit was 2, now 1"):
        gradalign.score(**{**SETTINGS, "limit": 1}, output_dir=str(begun))


def test_another_setting_besides_is_another_run(begun):
    with pytest.raises(RunError, match="--seed"):
        gradalign.score(**LARGER, seed=5, output_dir=str(begun))


def test_a_task_that_begins_otherwise_is_refused(begun, monkeypatch):
    from gradalign.tasks import demo

    before = stamps(begun)
    monkeypatch.setattr(demo, "generate", lambda size, seed: generate(size, seed=seed + 1))
    with pytest.raises(RunError, match="does not begin with its 2 any more"):
        gradalign.score(**LARGER, output_dir=str(begun))
    assert stamps(begun) == before
