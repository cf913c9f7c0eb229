"""Workers of a real Ray cluster do what a local run does, to the last bit, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import Command
from requires import needs
from runs import SMALL, assert_same_tables, flags

import gradalign
from gradalign.errors import EngineError, GateError, UsageError
from gradalign.executors.cluster import Cluster
from gradalign.progress import SilentReporter
from gradalign.store.folder import RunFolder

needs("ray")

pytestmark = pytest.mark.ray

RAY = {"executor": "ray", "num_workers": 2}


class Bar(SilentReporter):
    """A reporter that remembers."""

    def __init__(self):
        self.stages = {}
        self.remarks = []

    def stage(self, name, unit, num_shards, num_done):
        self.stages[name] = self.current = {
            "finished": num_done,
            "shards": num_shards,
            "units": 0,
            "highest": 0.0,
            "open": 0,
        }
        return self

    def __enter__(self):
        self.current["open"] += 1
        return self

    def __exit__(self, *_):
        self.current["open"] -= 1

    def shard(self, done, total, units):
        assert units >= 0
        self.current["units"] += units
        self.current["highest"] = max(self.current["highest"], done / total)

    def finish_shard(self):
        self.current["finished"] += 1

    def remark(self, text):
        self.remarks.append(text)


@pytest.fixture
def workers(ray_cluster, monkeypatch):
    """The process ids of all workers, in the order in which they were started."""
    pids = []
    start = Cluster.start_worker

    def spy(self, kind, *arguments):
        actor = start(self, kind, *arguments)
        pids.append(ray_cluster.get(actor.__ray_call__.remote(lambda _: os.getpid())))
        return actor

    monkeypatch.setattr(Cluster, "start_worker", spy)
    return pids


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids, seconds=20.0):
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(alive, pids))


def score(folder, reporter=None, **changes):
    from gradalign.config import ScoreConfig
    from gradalign.pipeline import score_config

    settings = {**SMALL, **RAY, "output_dir": str(folder), **changes}
    return score_config(ScoreConfig.build(settings), reporter=reporter)


@pytest.mark.slow
def test_two_workers_equal_a_local_run(small_run, workers, tmp_path):
    bar = Bar()
    report = score(tmp_path / "ray", bar)
    assert_same_tables(Path(small_run.path), tmp_path / "ray")
    assert len(workers) == 2  # kept from stage to stage
    assert gone(workers)
    local, ours = small_run.metadata["stages"], report.metadata["stages"]
    assert {name: stage["counts"] for name, stage in ours.items()} == {
        name: stage["counts"] for name, stage in local.items()
    }
    for stage in ours.values():
        assert 0 < stage["worker_seconds"] <= 2.1 * stage["seconds"] + 0.5
        inside = stage["model_seconds"] + stage["opening_seconds"]
        assert 0 <= inside <= stage["worker_seconds"] + 0.01
    assert ours["branch"]["model_seconds"] > 0
    for name, shown in bar.stages.items():
        assert shown["finished"] == shown["shards"] == 3, name
        assert shown["open"] == 0
        assert shown["highest"] <= 2
    assert bar.stages["sample"]["units"] == 6
    assert bar.stages["branch"]["units"] <= local["branch"]["counts"]["continuations"]
    assert report.metadata["status"] == "done"
    starts = report.metadata["engine_starts"]
    assert len(starts) == 2  # each worker's own, from stage to stage
    assert {start["reason"] for start in starts} == {"no engine was open yet"}


@pytest.mark.slow
def test_killed_workers_are_replaced(small_run, workers, monkeypatch, tmp_path):
    """One in the middle of sampling, and both as soon as one has a shard of the branch stage.

    Which worker begins with what: a shard is begun ahead if enough is left for the others, and it
    is done alone after a death.
    """
    from gradalign.executors import ray as executor

    folder = tmp_path / "killed"
    killed, given = [], []

    def kill(*victims):
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    def kill_in_sampling():
        while not list((folder / "spines").glob("shard-*.parquet")):
            time.sleep(0.005)
        kill(next(pid for pid in workers if alive(pid)))

    start = executor._StageWork._start

    def spy(self, actor, shard):
        start(self, actor, shard)
        task = next(reversed(self._running.values()))
        if self._name == "branch":
            given.append((shard, task.ahead, len(self._queue)))
            if len(given) == 1:
                kill(*filter(alive, workers))

    monkeypatch.setattr(executor._StageWork, "_start", spy)
    thread = threading.Thread(target=kill_in_sampling, daemon=True)
    thread.start()
    score(folder)
    thread.join(timeout=10)
    assert len(killed) == 3
    assert len(workers) >= 5
    assert_same_tables(Path(small_run.path), folder)
    assert gone(workers)

    first, ahead, _ = given[0]
    assert ahead is not None
    again = [other for one, other, _ in given[1:] if one == first]
    assert again == [None]  # it may have been the one that kills
    assert all(left + 1 >= 2 for _, other, left in given if other is not None)


def spoil(monkeypatch, harm):
    """Have something done to every worker as soon as it is started."""
    start = Cluster.start_worker

    def spoiled(self, kind, *arguments):
        actor = start(self, kind, *arguments)
        actor.__ray_call__.remote(harm)
        return actor

    monkeypatch.setattr(Cluster, "start_worker", spoiled)


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_is_named(ray_cluster, monkeypatch, tmp_path):
    def die_at_work(worker):
        worker._open = lambda number: os.kill(os.getpid(), signal.SIGKILL)

    spoil(monkeypatch, die_at_work)
    with pytest.raises(EngineError, match=r"sample, shard-0000\d: the worker died 3 times"):
        score(tmp_path / "doomed", num_workers=1)


@pytest.mark.slow
def test_workers_that_die_before_they_have_come_up(ray_cluster, monkeypatch, tmp_path):
    spoil(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(EngineError, match="3 workers died before they had come up"):
        score(tmp_path / "stillborn", num_workers=1)


@pytest.mark.slow
def test_a_cluster_with_room_for_fewer_workers_does_everything(ray_cluster, small_run, tmp_path):
    class Tenant:
        def ready(self):
            return True

    tenant = ray_cluster.remote(num_cpus=1)(Tenant).remote()  # of two
    ray_cluster.get(tenant.ready.remote())
    try:
        report = score(tmp_path / "small")
    finally:
        ray_cluster.kill(tenant)
    assert len(report.metadata["engine_starts"]) == 1
    assert_same_tables(Path(small_run.path), tmp_path / "small")


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_users_error(workers, tmp_path):
    with pytest.raises(UsageError, match="engine transformers has no argument 'no_such'"):
        score(tmp_path / "wrong", engine_args={"no_such": 1}, num_workers=1)
    assert gone(workers)


@pytest.mark.slow
def test_the_gate_stops_a_run_of_workers(workers, tmp_path, monkeypatch):
    """After sampling it is the driver's to judge, while branching the workers'."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    with pytest.raises(GateError, match="stopped after sampling"):
        score(tmp_path / "wrong", verifier="exact", gate_responses=6, num_workers=1)
    assert not RunFolder(str(tmp_path / "wrong")).files("nodes")
    settings = {"verifier": "tests.graders:by_question", "gate_misread": 1.0, "limit": 24}
    with pytest.raises(GateError, match="stopped while branching: all"):
        score(tmp_path / "flat", **settings, nodes=8, coverage=1.0, shard_size=8)
    assert len(RunFolder(str(tmp_path / "flat")).files("nodes")) < 3
    assert gone(workers)


def test_a_numbered_device_is_refused(tmp_path):
    from gradalign.config import ScoreConfig
    from gradalign.executors.cluster import open_cluster
    from gradalign.progress import SilentReporter

    config = ScoreConfig.build({**SMALL, **RAY, "output_dir": str(tmp_path), "device": "cuda:1"})
    with (
        pytest.raises(UsageError, match="gives each worker GPUs"),
        open_cluster(config, SilentReporter()),
    ):
        pass


def test_without_ray_the_extra_is_named(monkeypatch, tmp_path):
    from gradalign.config import ScoreConfig
    from gradalign.errors import MissingDependencyError
    from gradalign.executors.cluster import open_cluster
    from gradalign.progress import SilentReporter

    monkeypatch.setitem(sys.modules, "ray", None)
    config = ScoreConfig.build({**SMALL, **RAY, "output_dir": str(tmp_path)})
    with (
        pytest.raises(MissingDependencyError, match=r"gradalign\[ray\]"),
        open_cluster(config, SilentReporter()),
    ):
        pass


def worker_pids():
    """The processes of Ray that hold one of our workers, whoever started them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::Worker"):
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_interrupted_from_the_keyboard_and_by_a_scheduler(ray_cluster, small_run, tmp_path):
    folder = tmp_path / "interrupted"
    for number, status, after, workers in (
        (signal.SIGINT, 130, "positions", 1),
        (signal.SIGTERM, 143, "nodes", 2),
    ):
        settings = {**SMALL, **RAY, "num_workers": workers, "output_dir": folder}
        before = worker_pids()
        command = Command(["score", *flags(settings)], tmp_path, after)
        while not (folder / after).exists() and command.status is None:
            time.sleep(0.01)
        at_work = worker_pids() - before
        command.send(number)
        assert command.wait(120) == status, command.err
        assert "Traceback" not in command.err
        assert "run the same command to go on" in command.err
        assert at_work
        assert gone(at_work)
        assert not (folder / "summary.parquet").exists()
    gradalign.score(**SMALL, output_dir=str(folder))  # on this machine alone
    assert_same_tables(Path(small_run.path), folder)
