"""New methods and teachers on stored rollouts: as if they had been there from the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runs import SMALL, assert_same_tables, tables

import gradalign
from gradalign.errors import RunError, UnknownNameError, UsageError
from gradalign_cli.main import main

SETTINGS = {**SMALL, "limit": 2, "teachers": ["demo:strong"], "methods": ["gkd"]}


@pytest.fixture(scope="module")
def plain(finished_runs) -> Path:
    return Path(finished_runs.get(**SETTINGS).path)


def test_a_new_method_gives_what_a_fresh_run_gives(plain, tmp_path):
    """With another temperature (opsd) and with scores of continuations (minillm)."""
    shutil.copytree(plain, tmp_path / "later")
    report = gradalign.rescore(str(tmp_path / "later"), methods=["opsd", "minillm", "gkd"])
    assert report.config.methods == ["gkd", "opsd", "minillm"]
    assert report.metadata["status"] == "done"
    fresh = {**SETTINGS, "methods": ["gkd", "opsd", "minillm"]}
    gradalign.score(**fresh, output_dir=str(tmp_path / "fresh"))
    assert_same_tables(tmp_path / "later", tmp_path / "fresh")


def test_a_new_teacher_reads_the_same_rollouts(plain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(plain, folder)
    status = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    with pytest.raises(SystemExit) as stop:
        main(["rescore", str(folder), "--teacher", "self+answer", "--display", "none"])
    assert not stop.value.code
    sampled = ("spines", "continuations", "branches", "nodes", "positions")
    for path, written in status.items():
        if path.parent.name in sampled:
            assert path.stat().st_mtime_ns == written, path
    report = gradalign.read_report(str(folder))
    assert set(report.summary["teacher"]) == {"demo:strong", "self+answer"}
    before = gradalign.read_report(str(plain)).alignment
    after = report.alignment
    old = after[after["teacher"] == "demo:strong"]
    assert old["dot"].tolist() == before["dot"].tolist()
    # What it is now is a run of the new settings: resuming it does nothing.
    again = tables(folder)
    settings = {**SETTINGS, "teachers": ["demo:strong", "self+answer"]}
    gradalign.score(**settings, output_dir=str(folder))
    assert all(frame.equals(again[name]) for name, frame in tables(folder).items())


def test_an_interruption_keeps_the_old_run(plain, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(plain, folder)
    monkeypatch.setattr(
        "gradalign.rescoring._record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        gradalign.rescore(str(folder), methods=["opd"])
    gradalign.score(**SETTINGS, output_dir=str(folder))
    assert_same_tables(folder, plain)


def test_what_cannot_be_rescored_is_left_alone(plain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(plain, folder)
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(str(folder), methods=["gkd"])
    with pytest.raises(UnknownNameError):
        gradalign.rescore(str(folder), methods=["gdk"])
    with pytest.raises(UnknownNameError):
        gradalign.rescore(str(folder), teachers=["self+nonsense"])
    assert_same_tables(folder, plain)
    run = folder / "run.json"
    run.write_text(run.read_text().replace('"status": "done"', '"status": "running"'))
    with pytest.raises(RunError, match="not finished"):
        gradalign.rescore(str(folder), methods=["opd"])
