"""kill -9 at any moment, run the same command again: the result is an undisturbed run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import SMALL, assert_same_tables, flags

import gradalign
from gradalign.errors import RunError


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gradalign_cli.main", "score", *flags(SMALL)]
    return subprocess.Popen(
        [*command, "--output-dir", str(folder), "--display", "plain"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell that runs the tests in the background has made them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished_shards(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("shard-*.parquet")
        if path.parent.name != "questions"  # written anew unless they were all there
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
        while process.poll() is None and time.monotonic() < deadline:
            if kills < 6 and len(finished_shards(folder) if folder.exists() else {}) >= (
                len(seen) + 2
            ):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.005)
        now = finished_shards(folder)
        rewritten = [name for name, stamp in seen.items() if now.get(name) != stamp]
        assert not rewritten, f"attempt {attempt} wrote finished shards again: {rewritten}"
        seen = now
        if process.returncode == 0:
            break
    assert process.returncode == 0, process.stderr.read().decode()
    assert kills >= 3
    assert_same_tables(Path(small_run.path), folder)


@pytest.mark.slow
def test_interrupted_from_the_keyboard(small_run, tmp_path):
    folder = tmp_path / "interrupted"
    process = start(folder)
    deadline = time.monotonic() + 300
    while not (folder / "spines").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    text = err.decode()
    assert "Traceback" not in text
    assert "run the same command to go on" in text
    gradalign.score(**SMALL, output_dir=str(folder))
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


def test_a_missing_shard_is_done_again_alone(tmp_path):
    settings = {**SMALL, "limit": 2, "methods": ["gkd"], "nodes": 2}
    first = gradalign.score(**settings, output_dir=str(tmp_path / "a"))
    lost = Path(first.path) / "nodes" / "shard-00001.parquet"
    stamps = finished_shards(Path(first.path))
    kept = {name: stamp for name, stamp in stamps.items() if not name.startswith("nodes")}
    lost.unlink()
    gradalign.score(**settings, output_dir=first.path)
    after = finished_shards(Path(first.path))
    assert lost.exists()
    assert {name: after[name] for name in kept if "shard-00000" in name} == {
        name: stamp for name, stamp in kept.items() if "shard-00000" in name
    }


def test_start_over(tmp_path):
    settings = {**SMALL, "limit": 1, "methods": ["gkd"], "nodes": 2}
    gradalign.score(**settings, output_dir=str(tmp_path / "a"))
    again = gradalign.score(**{**settings, "seed": 5}, output_dir=str(tmp_path / "a"), resume=False)
    assert again.config.seed == 5
    assert len(again.questions) == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for resume in (True, False):
        with pytest.raises(RunError, match="not empty"):
            gradalign.score(**SMALL, output_dir=str(tmp_path), resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
