"""vLLM by itself on the branch stage's requests: one LLM.generate, or several side by side."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradalign.rollouts import Request
from gradalign.stages.base import Run
from gradalign.stages.branch import plan_shard
from speed.figures import Figures, Row, clock
from speed.workloads import open_run, recorded_run, requests_of

START_SECONDS = 600.0


class RawEngine:
    """vllm.LLM in this process, with the arguments that our engine gives it."""

    def __init__(self, run: Run) -> None:
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
        from gradalign.rollouts.base import EngineSpec
        from gradalign.rollouts.vllm_worker import engine_arguments

        model = resolve_model(run.config.student)
        spec = EngineSpec(model, run.sampling, max_model_len=run.resolved.max_model_len)
        self._params = vllm.SamplingParams
        self._stops = list(run.resolved.stop_token_ids)
        self._llm = vllm.LLM(**engine_arguments(asdict(spec)))

    def ask(self, requests: list[Request]) -> int:
        """Answer them all in one call; return how many tokens were drawn."""
        params = [
            self._params(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                seed=request.seed,
                max_tokens=request.max_tokens,
                stop_token_ids=self._stops,
                ignore_eos=True,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        found = self._llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in found)


def one_call(name: str, folder: Path, work_folder: Path) -> Figures:
    """All recorded requests in one LLM.generate."""
    run = recorded_run(folder)
    *timed, warm_up = run.shards()
    requests = [request for shard in timed for request in requests_of(run, shard)]
    engine = RawEngine(run)
    engine.ask(list(requests_of(run, warm_up)))
    figures: Figures = {"requests": len(requests)}
    with clock(figures):
        figures["tokens"] = engine.ask(requests)
    return figures


def side_by_side(number: int) -> Row:
    """Processes with an engine each and nothing else: what more workers can bring at best."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(number)
        queue: Any = context.SimpleQueue()
        processes = [
            context.Process(target=_share, args=(folder, part, number, barrier, queue))
            for part in range(number)
        ]
        for process in processes:
            process.start()
        found = [queue.get() for _ in processes]
        for process in processes:
            process.join()
        begin, end = min(item[1] for item in found), max(item[2] for item in found)
        return {
            "seconds": end - begin,
            "cpu_seconds": sum(item[3] for item in found),
            "tokens": sum(item[0] for item in found),
            "requests": sum(item[4] for item in found),
        }

    return row


def _share(folder: Path, part: int, number: int, barrier: Any, queue: Any) -> None:
    """Answer every `number`-th shard, a call for each; begin when all are ready to."""
    run = open_run(folder)
    *timed, warm_up = run.shards()
    mine = [list(planned_requests(run, shard)) for shard in timed[part::number]]
    engine = RawEngine(run)
    engine.ask(list(planned_requests(run, warm_up)))
    barrier.wait(START_SECONDS)
    begin, spent = time.monotonic(), time.process_time()
    tokens = sum(engine.ask(requests) for requests in mine)
    end = time.monotonic()
    queue.put((tokens, begin, end, time.process_time() - spent, sum(map(len, mine))))


def planned_requests(run: Run, shard: str) -> Iterator[Request]:
    """Yield what the branch stage will ask for first: everything, if allocation is uniform."""
    for item in plan_shard(run, shard):
        for request in item.branching.next_requests():
            if not request.finished:
                yield item.ask(request, run)
