"""One writer per run folder: between processes, between threads, and on stores without locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from gradalign.errors import RunError
from gradalign.store import lock
from gradalign.store.folder import LOCK_NAME, RunFolder
from gradalign.store.lock import sole_writer

HOLD = """
import sys, time
from gradalign.store.folder import RunFolder
from gradalign.store.lock import sole_writer
with sole_writer(RunFolder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_another_process_is_refused_until_the_holder_is_killed(tmp_path):
    process = holder(tmp_path / "run")
    try:
        for spelling in (tmp_path / "run", tmp_path / "x" / ".." / "run", f"file://{tmp_path}/run"):
            with (
                pytest.raises(RunError, match=rf"in use: process {process.pid} on "),
                sole_writer(RunFolder(str(spelling))),
            ):
                pass
        with sole_writer(RunFolder(str(tmp_path / "other"))):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sole_writer(RunFolder(str(tmp_path / "run"))):
        assert (tmp_path / "run" / LOCK_NAME).exists()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


@pytest.mark.parametrize("url", ["folder", "memory://locked/run"])
def test_of_many_threads_one_has_it_at_a_time(tmp_path, url):
    inside, most, refused, done = [], [], [], []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait()
        for _ in range(10):
            try:
                with sole_writer(RunFolder(url if "://" in url else str(tmp_path / url))):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.002)
                    inside.pop()
                    done.append(1)
            except RunError:
                refused.append(1)
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert refused
    assert len(done) + len(refused) == 60


def test_a_folder_made_for_the_lock_alone_goes_away(tmp_path):
    with sole_writer(RunFolder(str(tmp_path / "a" / "b"))):
        assert os.listdir(tmp_path / "a" / "b") == [LOCK_NAME]
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with sole_writer(RunFolder(str(tmp_path / "mine"))):
        pass
    assert (tmp_path / "mine").is_dir()
    with sole_writer(RunFolder(str(tmp_path / "a"))):
        (tmp_path / "a" / "run.json").write_text("{}")
    assert os.listdir(tmp_path / "a") == ["run.json"]


def test_the_lock_is_given_back_after_an_error(tmp_path):
    folder = RunFolder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), sole_writer(folder):
        raise KeyboardInterrupt
    with sole_writer(folder):
        pass


def test_a_file_of_the_locks_name_that_is_none_of_ours(tmp_path):
    (tmp_path / LOCK_NAME).write_text("somebody's notes")
    with pytest.raises(RunError, match="in the way"), sole_writer(RunFolder(str(tmp_path))):
        pass
    assert (tmp_path / LOCK_NAME).read_text() == "somebody's notes"


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="cannot write"), sole_writer(RunFolder(f"{tmp_path}/run")):
        pass


class _Store:
    """Somebody else's lock in a store."""

    def __init__(self, url: str) -> None:
        self.folder = RunFolder(url)
        self.path = self.folder.path(LOCK_NAME)

    def put(self, **changed: object) -> None:
        now = {"tool": "gradalign", "host": "far", "pid": 1, "renewed": time.time(), "token": "t"}
        self.folder.fs.pipe_file(self.path, json.dumps({**now, **changed}).encode())


def test_a_stores_lock_counts_until_it_is_out_of_date():
    store = _Store("memory://stale/run")
    store.put()
    with pytest.raises(RunError, match="process 1 on far"), sole_writer(store.folder):
        pass
    store.put(renewed=time.time() - lock.STALE_SECONDS - 1)
    with sole_writer(store.folder):
        assert b'"token": "t"' not in store.folder.fs.cat_file(store.path)
    assert not store.folder.fs.exists(store.path)


def test_a_stores_lock_of_a_dead_process_of_this_machine_is_taken_at_once():
    store = _Store("memory://dead/run")
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    store.put(host=lock.socket.gethostname(), pid=int(process.stdout))
    with sole_writer(store.folder):
        pass


def test_a_stores_lock_is_renewed_and_given_back_only_if_it_is_ours(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
    store = _Store("memory://renewed/run")
    with sole_writer(store.folder):
        first = json.loads(store.folder.fs.cat_file(store.path))["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(store.folder.fs.cat_file(store.path))["renewed"] == first:
            assert time.monotonic() < deadline
        store.put()  # as if we had been asleep for too long
        time.sleep(0.05)
    assert json.loads(store.folder.fs.cat_file(store.path))["token"] == "t"


def test_a_store_that_cannot_create_exclusively(monkeypatch):
    memory = type(fsspec.filesystem("memory"))
    pipe = memory.pipe_file

    def plain(self: object, path: str, value: bytes) -> None:
        pipe(self, path, value)

    monkeypatch.setattr(memory, "pipe_file", plain)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: rival())
    store = _Store("memory://plain/run")
    rival = store.put
    with pytest.raises(RunError, match="process 1 on far"), sole_writer(store.folder):
        pass  # somebody wrote after us
    store.folder.fs.rm_file(store.path)
    rival = lambda: None  # noqa: E731
    with sole_writer(store.folder):
        pass


def test_a_disk_without_locks_has_the_stores_rule(tmp_path, monkeypatch):
    import fcntl

    def none(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    folder = RunFolder(str(tmp_path / "run"))
    with sole_writer(folder):
        holder_now = json.loads((tmp_path / "run" / LOCK_NAME).read_text())
        assert holder_now["pid"] == os.getpid()
    store = _Store(str(tmp_path))
    store.put()
    with ExitStack() as stack, pytest.raises(RunError, match="on far"):
        stack.enter_context(sole_writer(RunFolder(str(tmp_path))))
