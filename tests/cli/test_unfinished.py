"""Runs that are not at their end: run.json says why, every command says what is next."""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import SMALL, TINY, flags

import gradalign
from gradalign.errors import EngineError, RunError
from gradalign.pipeline import diagnose_run
from gradalign.report.unfinished import unfinished
from gradalign.stages.branch.stage import Branch
from gradalign.store.folder import LOCK_NAME, RunFolder
from gradalign.store.lock import at_work, sole_writer
from gradalign.store.manifest import command_to_go_on
from gradalign_cli.main import main

SETTINGS = {**TINY, "limit": 3, "shard_size": 1}

READERS = (
    ["show"],
    ["recommend"],
    ["report"],
    ["diagnose"],
    ["export"],
    ["check", "--fail-under", "pooled[*@*]>=-1"],
    ["rescore", "--method", "opd"],
)


def status_of(folder):
    return json.loads((Path(folder) / "run.json").read_text())["status"]


def said(capsys, *arguments):
    """Run a command that is refused; return what it says at last."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def stopped(folder, error, monkeypatch):
    """Begin a run whose stage `branch` ends with an error."""

    def session(self, run):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Branch, "session", session)
        with pytest.raises(type(error)):
            gradalign.score(**SETTINGS, output_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "a run"
    return stopped(folder, KeyboardInterrupt(), pytest.MonkeyPatch())


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    return shutil.copytree(interrupted_once, tmp_path / "it's a run")


def change(folder, **entries):
    data = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**data, **entries}))


def test_every_reader_names_the_stage_and_a_command_that_goes_on(interrupted, capsys, small_run):
    assert status_of(interrupted) == "interrupted"
    before = sorted(interrupted.rglob("*"))
    for name, *more in READERS:
        text = said(capsys, name, str(interrupted), *more)
        assert "it was interrupted; stage 'branch' has 0 of 3 shards" in text, name
    for pair in ((str(interrupted), small_run.path), (small_run.path, str(interrupted))):
        assert "stage 'branch'" in said(capsys, "compare", *pair)
    assert sorted(interrupted.rglob("*")) == before, "nothing was written"
    assert "stage &#x27;branch&#x27;" in gradalign.read_report(str(interrupted))._repr_html_()
    command = shlex.split(text.partition("Go on with: ")[2])
    assert command[:2] == ["gradalign", "score"]
    with pytest.raises(SystemExit) as stop:
        main(command[1:])
    assert stop.value.code == 0
    assert status_of(interrupted) == "done"
    with pytest.raises(SystemExit) as stop:
        main(["recommend", str(interrupted)])
    assert stop.value.code == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_command_has_a_line_of_its_own(interrupted, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(SystemExit):
        main(["recommend", str(interrupted)])
    *text, command = terminal.getvalue().splitlines()
    assert command == f"  {command_to_go_on(str(interrupted))}"
    assert len(command) > 40
    words = " ".join(text)
    assert "it was interrupted; stage 'branch' has 0 of 3 shards. Go on with:" in words
    assert all(len(line) < 40 for line in text if "/" not in line)
    for line, following in itertools.pairwise(text):
        assert len(line) + 1 + len(following.split()[0]) >= 40, "the next word had room"


def test_a_failure_is_kept_until_the_run_goes_on(tmp_path, monkeypatch, capsys):
    broken = EngineError("the engine has lost its GPU.", "Buy one.")
    folder = stopped(tmp_path / "run", broken, monkeypatch)
    assert status_of(folder) == "failed"
    text = said(capsys, "recommend", str(folder))
    assert "it failed (the engine has lost its GPU); stage 'branch' has 0 of 3 shards." in text
    stopped(folder, ZeroDivisionError("by\x1b nothing"), monkeypatch)
    text = said(capsys, "recommend", str(folder))
    assert "it failed (ZeroDivisionError: by" in text
    assert "\x1b" not in text
    stopped(folder, KeyboardInterrupt(), monkeypatch)
    assert "failure" not in json.loads((folder / "run.json").read_text())


def test_a_run_at_work_is_told_from_one_that_was_killed(interrupted, capsys):
    change(interrupted, status="running")
    lock = interrupted / LOCK_NAME
    lock.write_text(json.dumps({"tool": "gradalign", "pid": 4711, "host": "h", "since": "then"}))
    with lock.open() as held:  # as another process holds it
        fcntl.flock(held, fcntl.LOCK_EX)
        text = said(capsys, "recommend", str(interrupted))
        assert "process 4711 on h has been at work there since then; stage 'branch'" in text
        assert text.endswith("Wait until it has ended.")
    text = said(capsys, "recommend", str(interrupted))
    assert "it was cut off; stage 'branch' has 0 of 3 shards" in text
    lock.unlink()
    assert "it was cut off" in said(capsys, "show", str(interrupted))
    assert not lock.exists()
    with sole_writer(RunFolder(str(interrupted))):
        assert f"process {os.getpid()} on " in said(capsys, "show", str(interrupted))


def test_locks_that_are_mere_files():
    folder = RunFolder("memory://at-work/run")
    assert at_work(folder) is None
    with sole_writer(folder):
        assert f"process {os.getpid()} " in str(at_work(folder))
    holder = {"tool": "gradalign", "pid": 1, "host": "elsewhere", "since": "then"}
    for renewed, there in ((time.time(), True), (time.time() - 10_000, False)):
        folder.write_json(LOCK_NAME, {**holder, "renewed": renewed})
        assert (at_work(folder) is not None) == there


def test_an_interruption_while_questions_are_written(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gradalign.stages.preparation.start.record_identity", stop)
        with pytest.raises(KeyboardInterrupt):
            gradalign.score(**TINY, output_dir=str(tmp_path / "run"))
    assert status_of(tmp_path / "run") == "interrupted"
    assert "its questions are not all written" in said(capsys, "recommend", str(tmp_path / "run"))
    gradalign.score(**TINY, output_dir=str(tmp_path / "run"))
    assert status_of(tmp_path / "run") == "done"


def test_a_finished_run_that_is_looked_through_again_stays_finished(small_copy, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gradalign.pipeline.summarise", stop)
    for lost, status in ((None, "done"), ("alignment", "interrupted")):
        if lost is not None:
            shutil.rmtree(Path(small_copy.path) / lost)
            monkeypatch.setattr("gradalign.executors.local.LocalExecutor.run_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            gradalign.score(**SMALL, output_dir=small_copy.path)
        assert status_of(small_copy.path) == status


def test_what_is_missing_of_a_run_that_was_done(small_copy):
    folder = Path(small_copy.path)
    (folder / "summary.parquet").unlink()
    with pytest.raises(RunError, match="its files are not complete; its summary is missing"):
        _ = gradalign.read_report(small_copy.path).summary
    shutil.rmtree(folder / "alignment")
    with pytest.raises(RunError, match="stage 'align' has 0 of 3 shards"):
        gradalign.read_report(small_copy.path).recommend()
    with pytest.raises(RunError, match="stage 'align' has 0 of 3 shards"):
        diagnose_run(small_copy.path, ["overlap"])
    change(folder, config={**SMALL, "methods": ["no_such_method"], "output_dir": "run"})
    with pytest.raises(RunError, match=r"cannot be told \(unknown method 'no_such_method'\)"):
        _ = gradalign.read_report(small_copy.path).summary


def test_a_torn_record(small_copy):
    error = unfinished(small_copy.folder, {"schema_version": "1"})
    assert "Restore run.json" in error.hint


def test_a_scheduler_is_obeyed_as_the_keyboard_is(monkeypatch, capsys):
    def work(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr("gradalign_cli.main.program", lambda: work)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 143
    assert "finished shards are kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


FORKING = """
import os, signal, sys, time
import gradalign_cli.main as command_line

def work(*_, **__):
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begin, b"x")
        time.sleep(30)
        os._exit(0)
    os.read(begun, 1)
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    return 0

command_line.program = lambda: work
command_line.main([])
"""


def test_a_forked_process_dies_of_the_signal():
    """In a process of its own: one with the threads of other tests may hang when it is forked."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(int(signal.SIGTERM))]


def refused(folder, capsys, **changes):
    settings = {**SMALL, **changes, "output_dir": folder}
    return said(capsys, "score", *flags(settings))


def test_what_can_be_added_is_added_by_the_command_that_is_named(small_copy, capsys):
    folder = small_copy.path
    methods, teachers = SMALL["methods"], SMALL["teachers"]
    text = refused(folder, capsys, methods=[*methods, "verl/k2"])
    assert "--method adds verl/k2." in text
    assert text.endswith(
        f"To add to it without sampling again: gradalign rescore {folder} --method verl/k2"
    )
    text = refused(folder, capsys, teachers=["demo:strong", "demo:weak"], alignment="weights")
    assert "--teacher adds demo:weak and lacks self+answer; --alignment adds weights" in text
    assert text.endswith(f"rescore {folder} --teacher demo:weak --alignment weights")
    text = refused(folder, capsys, alignment="weights", weights_space="lora:rank=2")
    assert text.endswith(f"rescore {folder} --alignment weights --weights-space lora:rank=2")
    for same in (
        {"methods": methods[::-1]},
        {"methods": methods[:2]},
        {"methods": [*methods[1:], "gkd:beta=0.5"]},
        {"teachers": ["demo:strong+none", "self+answer"]},
    ):
        text = refused(folder, capsys, **same)
        assert f"It has all that is asked for: gradalign show {folder} For a run" in text
    text = refused(folder, capsys, methods=["gkd"], seed=3)
    assert "--seed was 0, now 3" in text
    assert "rescore" not in text
    assert "Choose another --output-dir" in text
    # What is named can be done.
    text = refused(folder, capsys, teachers=[*teachers, "demo:weak"])
    command = shlex.split(text.partition("again: ")[2])
    with pytest.raises(SystemExit) as stop:
        main(command[1:])
    assert stop.value.code == 0
    assert "demo:weak" in set(gradalign.read_report(folder).summary["teacher"])


def test_an_unfinished_run_is_finished_before_it_is_added_to(interrupted, capsys):
    settings = {**SETTINGS, "methods": ["gkd", "opd"], "output_dir": str(interrupted)}
    text = said(capsys, "score", *flags(settings))
    folder = shlex.quote(str(interrupted))
    assert (
        f"Finish it first: gradalign score --config {shlex.quote(f'{interrupted}/run.json')}"
        in text
    )
    assert text.endswith(f"gradalign rescore {folder} --method opd")


@pytest.mark.parametrize("more", [["--dry-run"], ["--print-prompts", "1"]])
def test_what_writes_nothing_needs_no_folder(more, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # A folder of that name is not looked at.
    (tmp_path / "gradalign-run").mkdir()
    (tmp_path / "gradalign-run" / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit) as stop:
        main(["score", *flags(TINY), *more])
    assert stop.value.code == 0
    assert capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["gradalign-run", "thesis.txt"]
    # One that is given is looked at.
    text = said(capsys, "score", *flags(TINY), "--dry-run", "--output-dir", "gradalign-run")
    assert "is not empty and holds no run" in text
