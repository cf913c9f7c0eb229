"""Run many independent trainings on a few processes, keeping what is done."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Job = dict[str, Any]


def one_thread() -> None:
    """Keep a worker process to one core."""
    import torch

    torch.set_num_threads(1)


def key_of(job: Job) -> str:
    """Identify a job by its content."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def run_jobs(
    work: Callable[[Job], Job],
    jobs: Sequence[Job],
    store: Path,
    processes: int,
    say: Callable[[str], None],
) -> list[Job]:
    """Return the result of every job, in order; finished ones are read from `store`.

    Args:
        work: a module-level function from a job to its result, both JSON.
        jobs: JSON descriptions that say everything the result depends on.
        store: a JSONL file of results, extended as they come.
        processes: how many run at a time, one thread each.
        say: is told of every finished job.
    """
    known: dict[str, Job] = {}
    if store.is_file():
        for line in store.read_text().splitlines():
            record = json.loads(line)
            known[record["key"]] = record["result"]
    todo = [job for job in jobs if key_of(job) not in known]
    store.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    with _mapped(work, todo, processes) as calls:
        for done, (job, result) in enumerate(calls, start=1):
            known[key_of(job)] = result
            with store.open("a") as file:
                file.write(json.dumps({"key": key_of(job), "job": job, "result": result}) + "\n")
            say(
                f"{done}/{len(todo)} {time.perf_counter() - began:.0f} s "
                f"{json.dumps(job)} {json.dumps(result)}"
            )
    return [known[key_of(job)] for job in jobs]


@contextmanager
def _mapped(
    work: Callable[[Job], Job], todo: Sequence[Job], processes: int
) -> Iterator[Iterable[tuple[Job, Job]]]:
    """Yield (job, result) as they come; in this process if there is only one."""
    call = _Call(work)
    workers = min(processes, len(todo))
    if workers <= 1:
        yield map(call, todo)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=one_thread) as pool:
        yield pool.imap_unordered(call, todo)


@contextmanager
def cpu_clock(work: Path, name: str) -> Iterator[None]:
    """Keep this process's CPU seconds for a part of the work; of repeats the longest counts."""
    began = time.process_time()
    yield
    spent = round(time.process_time() - began, 1)
    file = work / "cpu_seconds.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known | {name: max(spent, known.get(name, 0.0))}))


def cpu_seconds(work: Path) -> dict[str, float]:
    """CPU seconds by part of a pair's work, that of all trainings included."""
    trainings = sum(
        json.loads(line)["result"]["cpu_seconds"]
        for store in sorted(work.glob("*.jsonl"))
        if store.name != "questions.jsonl"
        for line in store.read_text().splitlines()
    )
    known: dict[str, float] = json.loads((work / "cpu_seconds.json").read_text())
    found = known | {"trainings": round(trainings, 1)}
    return found | {"all": round(sum(found.values()), 1)}


class _Call:
    """Pairs a job with its result, in the worker."""

    def __init__(self, work: Callable[[Job], Job]) -> None:
        self.work = work

    def __call__(self, job: Job) -> tuple[Job, Job]:
        # Every engine that is closed collects garbage: without this, a training spends a third of
        # its time on looking at the modules of torch and TRL again.
        gc.collect()
        gc.freeze()
        return job, self.work(job)
