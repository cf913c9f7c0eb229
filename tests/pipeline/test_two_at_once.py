"""Two commands at work in one folder at once: one of them is refused, and nothing is mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gradalign
from gradalign.errors import RunError
from gradalign.pipeline import diagnose_run
from gradalign.stages.sample import Sample
from gradalign.store.folder import LOCK_NAME

TINY = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "methods": ["gkd"],
    "limit": 1,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "bootstrap_resamples": 100,
    "diagnose": ["none"],
    "engine": "transformers",
}


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


def test_the_same_command_rescore_and_diagnose_wait_for_the_first(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    gradalign.score(**TINY, output_dir=folder)
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
    flags = [
        item
        for name, value in settings.items()
        for item in (
            "--" + {"teachers": "teacher", "methods": "method"}.get(name, name.replace("_", "-")),
            str(value[0] if isinstance(value, list) else value),
        )
    ]
    command = [sys.executable, "-m", "gradalign_cli.main", "score", *flags]
    command += ["--output-dir", str(folder)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "run.json").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.01)
        second = subprocess.run(
            [*command, "--temperature", "0.5"], capture_output=True, text=True, check=False
        )
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert json.loads((folder / LOCK_NAME).read_text())["pid"] == first.pid
    third = subprocess.run(
        [*command, "--temperature", "0.5"], capture_output=True, text=True, check=False
    )
    assert "--temperature was 1.0, now 0.5" in third.stderr  # looked at: the lock was free
