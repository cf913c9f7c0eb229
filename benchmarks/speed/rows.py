"""One row of the table, in a process of its own: the same requests, answered in different ways."""

from __future__ import annotations

import os
import resource
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psutil

from gradalign.executors.heap import frozen_heap
from gradalign.runtime import model_seconds
from gradalign.stages.base import Run, announce
from gradalign.stages.branch.stage import Branch
from gradalign.stages.distributions import TeacherPositions
from gradalign.store.shard import read_shard
from speed.figures import Figures, Row, clock
from speed.raw import by_turns, one_call
from speed.server import vllm_server
from speed.turns import Turns
from speed.workloads import (
    WORKLOADS,
    copy_run,
    drawn_tokens,
    make_config,
    open_run,
    recorded_run,
    requests_of,
)


def stage(engine: str, **settings: Any) -> Row:
    """The branch stage itself: scheduling, engine, decoding, verifier, tables."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        run = copy_run(open_run(folder), work_folder / "run", engine=engine, **settings)
        return _timed_stage(name, folder, run)

    return row


def teacher_passes(name: str, folder: Path, work_folder: Path) -> Figures:
    """All teachers along all responses, as the stage of the run reads them."""
    run = copy_run(open_run(folder), work_folder / "run")
    run.folder.remove_tables(["distributions", "tokens"])
    figures: Figures = {"requests": 0, "tokens": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    before = model_seconds()
    for model, group in run.teachers_by_model.items():
        with TeacherPositions(model, group).session(run) as work:
            spent: Figures = {}
            with clock(spent):
                for shard in run.shards():
                    work(shard, _no_tick)
        for key in ("seconds", "cpu_seconds"):
            figures[key] += spent[key]
        for shard in run.shards():
            for spine in read_shard(run.folder, shard).spines:
                figures["requests"] += len(group)
                figures["tokens"] += len(group) * len(spine.prompt_ids + tuple(spine.token_ids))
    figures["model_seconds"] = model_seconds() - before
    return figures


def stage_on_server(name: str, folder: Path, work_folder: Path) -> Figures:
    """The branch stage on a vLLM server on this machine, which has its own process."""
    source = open_run(folder)
    with vllm_server(source.config.student, source.resolved.max_model_len) as url:
        run = copy_run(source, work_folder / "run", engine="server", base_urls=[url])
        return _timed_stage(name, folder, run)


def _timed_stage(name: str, folder: Path, run: Run) -> Figures:
    *timed, warm_up = run.shards()
    figures: Figures = {}
    with Branch().session(run) as work:
        work(warm_up, _no_tick)
        before = model_seconds()
        with clock(figures), frozen_heap():  # as executors do
            for shard, following in zip_longest(timed, timed[1:]):
                announce(work, following)
                work(shard, _no_tick)
    figures["model_seconds"] = model_seconds() - before
    if WORKLOADS[name].settings.get("allocation") == "uniform":
        _check_same_requests(folder, run)
    figures["tokens"] = sum(drawn_tokens(run, shard) for shard in timed)
    figures["requests"] = sum(1 for shard in timed for _ in requests_of(run, shard))
    return figures


def _check_same_requests(folder: Path, run: Run) -> None:
    recorded = recorded_run(folder)
    for shard in run.shards():
        if sorted(map(str, requests_of(run, shard))) != sorted(
            map(str, requests_of(recorded, shard))
        ):
            raise RuntimeError("the branch stage did not make the requests that were recorded")


def _no_tick(done: int, total: int, new: int) -> None:
    pass


def plain(name: str, folder: Path, work_folder: Path) -> Figures:
    """One model.generate per node and candidate; every k-th of them, evenly spread."""
    import torch

    from gradalign.models import load_model

    run = recorded_run(folder)
    requests = [request for shard in run.shards()[:-1] for request in requests_of(run, shard)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_model(run.config.student, device=device)
    stops = list(run.resolved.stop_token_ids)
    model.generation_config.eos_token_id = stops or None
    model.generation_config.pad_token_id = 0
    grouped: dict[tuple[tuple[int, ...], int], int] = {}
    for request in requests:
        key = (request.prompt_ids, request.max_tokens)
        grouped[key] = grouped.get(key, 0) + 1
    count = run.config.continuations
    calls = [key for key, total in grouped.items() for _ in range(total // count)]
    chosen = calls[:: WORKLOADS[name].plain_every]
    torch.manual_seed(0)
    stop_ids = torch.tensor(stops, device=device)

    def ask(prompt: tuple[int, ...], limit: int) -> int:
        ids = torch.tensor([prompt], device=device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=count,
            max_new_tokens=limit,
        )[:, len(prompt) :]
        ended = torch.isin(out, stop_ids).int()
        # Tokens up to the stop token; what pads a finished row is not counted.
        return int((ended.cumsum(1) - ended == 0).sum())

    ask(requests[0].prompt_ids, 4)
    figures: Figures = {"requests": len(chosen) * count}
    with clock(figures):
        figures["tokens"] = sum(ask(*key) for key in chosen)
    figures["share_of_requests"] = figures["requests"] / len(requests)
    return figures


def ray_by_turns(name: str, folder: Path, work_folder: Path) -> Figures:
    """The branch stage on two Ray actors with a vLLM engine each, one stopped now and then."""
    from gradalign.executors import open_executor
    from gradalign.store.manifest import RunLog

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings: dict[str, Any] = {"engine": "vllm", "executor": "ray", "num_workers": 2}
    run = copy_run(open_run(folder), work_folder / "run", **settings)
    progress = _Progress()
    num_shards = len(run.shards())
    turns = Turns(
        done=lambda: progress.units,
        # Both have their engine, and there is more to do than what both have begun with.
        busy=lambda: 2 <= progress.num_finished < num_shards - 4,
        processes=_newest_worker,
    )
    with open_executor(run.config) as executor, turns:
        executor.run_stage(Branch(), run, RunLog.load(run.folder), progress)
    tokens = sum(drawn_tokens(run, shard) for shard in run.shards())
    return turns.figures(tokens_per_unit=tokens / progress.units)


def _newest_worker() -> list[psutil.Process]:
    """Return the processes of one of our workers on Ray: its own and its engine's."""
    workers = [
        process
        for process in psutil.process_iter()
        if "".join(process.cmdline()[:1]).startswith("ray::Worker")
    ]
    newest = max(workers, key=lambda process: process.create_time())
    return [newest, *newest.children(recursive=True)]


class _Progress:
    """A reporter that only counts."""

    def __init__(self) -> None:
        self.units = 0
        self.num_finished = 0

    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> _Progress:
        return self

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shard(self, done: int, total: int, units: int) -> None:
        self.units += units

    def finish_shard(self) -> None:
        self.num_finished += 1

    def remark(self, text: str) -> None:
        pass


def whole_score(engine: str) -> Row:
    """`gradalign.score` from nothing, and how much of it is spent inside models."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        import gradalign

        settings = make_config(name, folder).model_dump()
        settings |= {"engine": engine, "output_dir": str(work_folder / "run")}
        figures: Figures = {}
        with clock(figures):
            report = gradalign.score(**settings)
        stages = report.metadata["stages"].values()
        totals = report.metadata["totals"]
        return figures | {
            "tokens": totals["continuation_tokens"] + totals["spine_tokens"],
            "requests": totals["continuations"] + totals["spines"],
            "model_seconds": sum(stage["model_seconds"] for stage in stages),
            "opening_seconds": sum(stage["opening_seconds"] for stage in stages),
        }

    return row


ROWS: dict[str, Row] = {
    "raw LLM.generate": one_call(),
    "raw, vLLM's defaults": one_call(ours=False),
    "raw, no seeds": one_call(seeded=False),
    "raw, defaults, no seeds": one_call(ours=False, seeded=False),
    "stage, vllm": stage("vllm"),
    "stage, vllm, no cache": stage("vllm", engine_args={"enable_prefix_caching": False}),
    "teacher passes": teacher_passes,
    "stage, server": stage_on_server,
    "stage, transformers": stage("transformers"),
    "plain script": plain,
    "bare, by turns": by_turns,
    "ray, by turns": ray_by_turns,
    "score, vllm": whole_score("vllm"),
    "score, transformers": whole_score("transformers"),
}


def measure(row: str, name: str, folder: Path, work_folder: Path) -> Figures:
    """Measure one row, with the peak memory of this process and of its largest child."""
    figures = ROWS[row](name, folder, work_folder)
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return figures | {"peak_mib": round(peaks[0]), "child_peak_mib": round(peaks[1])}
