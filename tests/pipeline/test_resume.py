"""kill -9 at any moment, run the same command again: the result is an undisturbed run's."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from commands import Command
from runs import SMALL, TINY, assert_same_tables, flags

import gradalign
from gradalign.errors import RunError


def start(folder: Path) -> Command:
    arguments = ["score", *flags(SMALL), "--output-dir", str(folder), "--display", "plain"]
    return Command(arguments, folder.parent / "printed")


def finished_shards(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("shard-*.parquet")
        # Questions are written anew unless they were all there; their sums with every summary.
        if path.parent.name not in ("questions", "question_sums")
    }


@pytest.mark.slow
def test_killed_again_and_again(small_run, tmp_path):
    folder = tmp_path / "killed"
    seen: dict[str, int] = {}
    kills = 0
    for attempt in range(12):
        process = start(folder)
        # Let each attempt get two files further, so that kills fall into different stages.
        deadline = time.monotonic() + 300
        while process.status is None and time.monotonic() < deadline:
            if kills < 6 and len(finished_shards(folder) if folder.exists() else {}) >= (
                len(seen) + 2
            ):
                process.send(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.005)
        now = finished_shards(folder)
        rewritten = [name for name, stamp in seen.items() if now.get(name) != stamp]
        assert not rewritten, f"attempt {attempt} wrote finished shards again: {rewritten}"
        seen = now
        if process.status == 0:
            break
    assert process.status == 0, process.err
    assert kills >= 3
    assert_same_tables(Path(small_run.path), folder)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_stop(small_run, tmp_path, number, status):
    folder = tmp_path / "interrupted"
    process = start(folder)
    deadline = time.monotonic() + 300
    while not (folder / "spines").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send(number)
    assert process.wait(120) == status
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert "Traceback" not in process.err
    assert "run the same command to go on" in process.err
    report = gradalign.score(**SMALL, output_dir=str(folder))
    assert report.metadata["status"] == "done"
    assert_same_tables(Path(small_run.path), folder)


def test_a_finished_run_is_not_done_again(small_copy, small_run):
    before = finished_shards(Path(small_copy.path))
    again = gradalign.score(**SMALL, output_dir=small_copy.path)
    assert finished_shards(Path(small_copy.path)) == before
    assert again.summary.equals(small_run.summary)


def test_another_configuration_is_refused_and_harms_nothing(small_copy):
    before = finished_shards(Path(small_copy.path))
    with pytest.raises(RunError, match=r"--seed was 0, now 1"):
        gradalign.score(**SMALL, seed=1, output_dir=small_copy.path)
    assert finished_shards(Path(small_copy.path)) == before


def test_settings_that_change_no_result_may_change(small_copy, small_run):
    again = gradalign.score(**SMALL, batch_tokens=999, output_dir=small_copy.path)
    assert again.summary.equals(small_run.summary)


def test_a_missing_shard_is_done_again_alone(small_copy):
    lost = Path(small_copy.path) / "nodes" / "shard-00001.parquet"
    stamps = finished_shards(Path(small_copy.path))
    kept = {name: stamp for name, stamp in stamps.items() if not name.startswith("nodes")}
    lost.unlink()
    gradalign.score(**SMALL, output_dir=small_copy.path)
    after = finished_shards(Path(small_copy.path))
    assert lost.exists()
    assert {name: after[name] for name in kept if "shard-00000" in name} == {
        name: stamp for name, stamp in kept.items() if "shard-00000" in name
    }


def test_start_over(small_copy):
    settings = {**TINY, "seed": 5}
    again = gradalign.score(**settings, output_dir=small_copy.path, resume=False)
    assert again.config.seed == 5
    assert len(again.questions) == TINY["limit"] < SMALL["limit"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for resume in (True, False):
        with pytest.raises(RunError, match="not empty"):
            gradalign.score(**SMALL, output_dir=str(tmp_path), resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
