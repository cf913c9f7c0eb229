"""One row of the table, in a process of its own: the same requests, answered in different ways."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from gradalign.executors.heap import frozen_heap
from gradalign.rollouts import Request
from gradalign.stages.base import Run
from gradalign.stages.branch import Branch
from speed.server import cpu_seconds_of, vllm_server
from speed.workloads import (
    WORKLOADS,
    copy_run,
    drawn_tokens,
    make_config,
    open_run,
    requests_of,
)

Figures = dict[str, Any]
Row = Callable[[str, Path, Path], Figures]
"""(workload, its folder, an empty folder to work in) to what was measured."""


@contextmanager
def clock(figures: Figures) -> Iterator[None]:
    """Put wall and CPU time into the figures; on a shared machine the CPU's is truer."""
    begin, spent = time.perf_counter(), _cpu_seconds()
    yield
    figures["seconds"] = time.perf_counter() - begin
    figures["cpu_seconds"] = _cpu_seconds() - spent


def _cpu_seconds() -> float:
    """CPU time of this process and of its children, running ones included."""
    me = psutil.Process()
    return sum(cpu_seconds_of(process) for process in (me, *me.children(recursive=True)))


def stage(engine: str, **settings: Any) -> Row:
    """The branch stage itself: scheduling, engine, decoding, verifier, tables."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        run = copy_run(open_run(folder), work_folder / "run", engine=engine, **settings)
        return _timed_stage(name, folder, run)

    return row


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
        with clock(figures), frozen_heap():  # as executors do
            for shard in timed:
                work(shard, _no_tick)
    if WORKLOADS[name].settings.get("allocation") == "uniform":
        _check_same_requests(folder, run)
    figures["tokens"] = sum(drawn_tokens(run, shard) for shard in timed)
    figures["requests"] = sum(1 for shard in timed for _ in requests_of(run, shard))
    return figures


def _check_same_requests(folder: Path, run: Run) -> None:
    recorded = _recorded_run(folder)
    for shard in run.shards():
        if sorted(map(str, requests_of(run, shard))) != sorted(
            map(str, requests_of(recorded, shard))
        ):
            raise RuntimeError("the branch stage did not make the requests that were recorded")


def _no_tick(done: int, total: int, new: int) -> None:
    pass


def _recorded_run(folder: Path) -> Run:
    source = open_run(folder)
    changed = {"output_dir": str(folder / "recorded")}
    return Run(source.config.model_copy(update=changed), source.resolved)


def _recorded(folder: Path) -> tuple[Run, list[Request], list[Request]]:
    """The requests to warm up with and those to time, as the branch stage made them."""
    run = _recorded_run(folder)
    *timed, warm_up = run.shards()
    requests = [request for shard in timed for request in requests_of(run, shard)]
    return run, list(requests_of(run, warm_up)), requests


def raw_vllm(name: str, folder: Path, work_folder: Path) -> Figures:
    """LLM.generate in this process, with the arguments that our engine gives it."""
    from dataclasses import asdict

    from gradalign.rollouts.base import EngineSpec

    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import vllm

    from gradalign.models import resolve_model
    from gradalign.rollouts.vllm_worker import engine_arguments

    run, warm_up, requests = _recorded(folder)
    model = resolve_model(run.config.student)
    spec = EngineSpec(model, run.sampling, max_model_len=run.resolved.max_model_len)
    llm = vllm.LLM(**engine_arguments(asdict(spec)))

    def ask(some: list[Request]) -> int:
        params = [
            vllm.SamplingParams(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                seed=request.seed,
                max_tokens=request.max_tokens,
                stop_token_ids=list(run.resolved.stop_token_ids),
                ignore_eos=True,
                detokenize=False,
            )
            for request in some
        ]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in some]
        found = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in found)

    ask(warm_up)
    figures: Figures = {"requests": len(requests)}
    with clock(figures):
        figures["tokens"] = ask(requests)
    return figures


def plain(name: str, folder: Path, work_folder: Path) -> Figures:
    """One model.generate per node and candidate; every k-th of them, evenly spread."""
    import torch
    from transformers import AutoModelForCausalLM

    from gradalign.models import resolve_dtype, resolve_model

    run, _, requests = _recorded(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        resolve_model(run.config.student), dtype=resolve_dtype("auto", device)
    ).to(device)
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


def ray(num_workers: int) -> Row:
    """The branch stage on Ray actors with a vLLM engine each, when all of them are at work."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        from gradalign.executors import open_executor
        from gradalign.runlog import RunLog

        os.environ.setdefault("OMP_NUM_THREADS", "1")
        run = copy_run(
            open_run(folder),
            work_folder / "run",
            engine="vllm",
            executor="ray",
            num_workers=num_workers,
        )
        finished = _FinishTimes()
        with open_executor(run.config) as executor:
            executor.run_stage(Branch(), run, RunLog.load(run.folder), finished)
        # From when each has done a shard, and so has its engine, to when one has no more to do.
        begin, end = finished.times[num_workers - 1], finished.times[-num_workers]
        counted = len(finished.times) - 2 * num_workers + 1
        tokens = sum(drawn_tokens(run, shard) for shard in run.shards())
        return {
            "seconds": end - begin,
            "cpu_seconds": None,
            "tokens": tokens * counted / len(finished.times),
            "requests": counted,
        }

    return row


class _FinishTimes:
    """A reporter that only notes when each shard was finished."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> _FinishTimes:
        return self

    def __enter__(self) -> _FinishTimes:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shard(self, done: int, total: int, units: int) -> None:
        pass

    def finish_shard(self) -> None:
        self.times.append(time.perf_counter())

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
    "raw LLM.generate": raw_vllm,
    "stage, vllm": stage("vllm"),
    "stage, vllm, no cache": stage("vllm", engine_args={"enable_prefix_caching": False}),
    "stage, server": stage_on_server,
    "stage, transformers": stage("transformers"),
    "plain script": plain,
    "ray, 1 worker": ray(1),
    "ray, 2 workers": ray(2),
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
