"""Two commands at work in one folder at once: one of them is refused, and nothing is mixed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from commands import Command
from runs import TINY, flags

import gradalign
from gradalign.errors import RunError
from gradalign.pipeline import diagnose_run
from gradalign.stages.sample import Sample
from gradalign.store.folder import LOCK_NAME


@pytest.mark.parametrize("url", ["run", "memory://at-once/run"])
def test_two_threads_with_other_settings(tmp_path, url):
    folder = url if "://" in url else str(tmp_path / url)
    start = threading.Barrier(2)
    outcomes: dict[float, object] = {}

    def work(temperature: float) -> None:
        start.wait()
        try:
            report = gradalign.score(**TINY, temperature=temperature, output_dir=folder)
            outcomes[temperature] = report.metadata["config"]["temperature"]
        except RunError as error:
            outcomes[temperature] = str(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 0.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lost,) = [what for value, what in outcomes.items() if what != value]
    assert f"in use: process {os.getpid()} on " in str(lost)


def test_the_same_command_rescore_and_diagnose_wait_for_the_first(
    finished_runs, tmp_path, monkeypatch
):
    folder = finished_runs.copy(tmp_path / "run", **TINY).path
    tried = []
    done = Sample.done

    def meanwhile(self: Sample, run: object, shard: str) -> bool:
        if not tried:
            for work in (
                lambda: gradalign.score(**TINY, output_dir=folder),
                lambda: gradalign.rescore(folder, methods=["opd"]),
                lambda: diagnose_run(folder, ["overlap"]),
            ):
                with pytest.raises(RunError, match="in use"):
                    work()
                tried.append(work)
            assert gradalign.read_report(folder).summary is not None  # readers need no lock
        return done(self, run, shard)

    monkeypatch.setattr(Sample, "done", meanwhile)
    gradalign.score(**TINY, output_dir=folder)
    assert len(tried) == 3
    assert not Path(folder, LOCK_NAME).exists()


@pytest.mark.slow
def test_commands_and_a_kill(tmp_path):
    """From the command line: refused with status 2 while the first lives, and free after it."""
    folder = tmp_path / "run"
    settings = {**TINY, "limit": 40, "shard_size": 1, "num_rollouts": 4, "continuations": 8}
    command = ["score", *flags(settings), "--output-dir", str(folder)]
    other = [*command, "--temperature", "0.5"]
    first = Command(command, tmp_path / "printed", "first")
    try:
        deadline = time.monotonic() + 120
        while not (folder / "run.json").exists():
            assert time.monotonic() < deadline
            assert first.status is None
            time.sleep(0.01)
        second = Command(other, tmp_path / "printed", "second")
        assert second.wait() == 2
        assert first.status is None
    finally:
        first.send(signal.SIGKILL)
        first.wait()
    assert f"process {first.pid} on " in second.err
    assert "Traceback" not in second.err
    assert json.loads((folder / LOCK_NAME).read_text())["pid"] == first.pid
    third = Command(other, tmp_path / "printed", "third")
    assert third.wait() == 2
    assert "--temperature was 1.0, now 0.5" in third.err  # looked at: the lock was free
