"""Nothing that gradalign did not write is deleted or written over, whatever it is called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest
from runs import TINY

import gradalign
from gradalign.config import ScoreConfig
from gradalign.errors import GradalignError, RunError
from gradalign.pipeline import diagnose_run, plan_config
from gradalign.report.report import read_report
from gradalign.store.folder import RunFolder


def everything(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Every file, folder and link below a folder, with contents and time stamp."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        content = (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        found[str(path)] = (path.lstat().st_mtime_ns, content)
    return found


FOREIGN = {
    "another tool's": '{"tool": "other"}',
    "alike": json.dumps({"schema_version": "1", "status": "done", "config": {}, "stages": {}}),
    "a list": "[1, 2]",
    "torn": '{"tool": "gradalign", "conf',
    "no text": "\udcff",
    "empty": "",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_of_another_tool_is_left_alone(what, tmp_path):
    folder = tmp_path / "other"
    (folder / "checkpoint-10").mkdir(parents=True)
    (folder / "nodes").mkdir()
    (folder / "run.json").write_bytes(FOREIGN[what].encode(errors="surrogateescape"))
    (folder / "checkpoint-10" / "model.bin").write_text("weights")
    (folder / "nodes" / "shard-00000.parquet").write_text("of that tool")
    before = {name: entry[1] for name, entry in everything(folder).items()}
    for resume in (True, False):
        with pytest.raises(RunError, match=r"run\.json"):
            gradalign.score(**TINY, output_dir=str(folder), resume=resume)
        config = ScoreConfig.build({**TINY, "output_dir": str(folder)})
        with pytest.raises(RunError, match=r"run\.json"):
            plan_config(config, resume=resume)
    for work in (
        lambda: gradalign.rescore(str(folder), methods=["opd"]),
        lambda: diagnose_run(str(folder)),
    ):
        with pytest.raises(RunError, match=r"run\.json"):
            work()
    if what in ("another tool's", "a list"):
        with pytest.raises(RunError, match="did not write"):
            read_report(str(folder))
    assert {name: entry[1] for name, entry in everything(folder).items()} == before


def test_starting_over_deletes_the_run_and_nothing_else(finished_runs, tmp_path, capfd):
    target = tmp_path / "target"
    link = tmp_path / "link"
    finished_runs.copy(target, **TINY)
    link.symlink_to(target)
    mine = ["notes.txt", "checkpoint-10/model.bin", "nodes/mine.parquet", "report.html", ".hidden"]
    for name in mine:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("mine")
    stale = target / "tokens" / "shard-00009-old.parquet"
    stale.write_bytes(next((target / "tokens").glob("*.parquet")).read_bytes())
    gradalign.score(**{**TINY, "seed": 1}, output_dir=str(link), resume=False, display="plain")
    assert link.is_symlink()
    assert not stale.exists()
    assert all((target / name).read_text() == "mine" for name in mine)
    assert len(read_report(str(link)).questions) == 1
    said = capfd.readouterr().err
    assert all(name in said for name in ("notes.txt", "checkpoint-10", "report.html"))


def test_a_check_that_fails_costs_the_old_run_nothing(finished_runs, tmp_path):
    finished_runs.copy(tmp_path / "run", **TINY)
    before = {name: entry[1] for name, entry in everything(tmp_path).items()}
    with pytest.raises(GradalignError, match="nobody"):
        gradalign.score(
            **{**TINY, "student": "./nobody"}, output_dir=str(tmp_path / "run"), resume=False
        )
    assert {name: entry[1] for name, entry in everything(tmp_path).items()} == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_dry_run_touches_nothing(tmp_path, resume):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to("missing")
    gone = "deep/down/below"
    before = everything(tmp_path)
    for name in ("empty", "link", gone):
        config = ScoreConfig.build({**TINY, "output_dir": str(tmp_path / name)})
        plan_config(config, resume=resume)
    for name in ("file", "file/run", "nowhere"):
        config = ScoreConfig.build({**TINY, "output_dir": str(tmp_path / name)})
        with pytest.raises(RunError, match="cannot write"):
            plan_config(config, resume=resume)
    assert everything(tmp_path) == before


NAMES = ["runs[1]", "a*", "b?", "{x,y}", "e %20#1", "~f"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *(("disk", name) for name in (*NAMES, "c::d")),
        *(("memory", name) for name in NAMES),  # `::` in a URL is a chain of file systems
    ],
)
def test_names_are_not_patterns(tmp_path, monkeypatch, name, place):
    """Siblings that a pattern would match keep what they have."""
    monkeypatch.chdir(tmp_path)
    siblings = ["runs1", "ab", "bc", "x", "y"]
    base = "" if place == "disk" else f"memory://names-{abs(hash(name))}/"
    for sibling in siblings:
        RunFolder(base + sibling).write_bytes("nodes/shard-00000.parquet", b"theirs")
    folder = RunFolder(base + name)
    for file in ("run.json", "summary.json", "nodes/shard-00000.parquet", "nodes/own.txt"):
        folder.write_bytes(file, b"x")
    assert folder.files("nodes") == ["shard-00000"]
    folder.check_writable()
    folder.remove_tables()
    assert folder.contents() == ["nodes", "run.json"]
    assert folder.files("nodes") == []
    assert folder.exists("nodes", "own.txt")
    for sibling in siblings:
        assert RunFolder(base + sibling).files("nodes") == ["shard-00000"]
    if place == "disk":
        assert (tmp_path / name / "run.json").exists()


def test_a_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    RunFolder("~/run").write_json("run.json", {})
    assert (tmp_path / "run" / "run.json").exists()


def test_a_run_on_a_store(tmp_path):
    url = "memory://bucket/run[1]"
    gradalign.score(**TINY, output_dir=url)
    with pytest.raises(RunError, match="other settings"):
        gradalign.score(**{**TINY, "seed": 1}, output_dir=url)
    gradalign.score(**{**TINY, "seed": 1}, output_dir=url, resume=False)
    assert read_report(url).metadata["config"]["seed"] == 1
    names = fsspec.filesystem("memory").ls("/bucket/run[1]", detail=False)
    assert not [name for name in names if name.rsplit("/", 1)[-1].startswith(".")]
