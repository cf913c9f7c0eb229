"""vLLM by itself on the branch stage's requests: one LLM.generate, or two engines at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from gradalign.engines import Request
from gradalign.stages.base import Run
from gradalign.stages.branch.stage import plan_shard
from speed.figures import Figures, Row, clock
from speed.turns import Turns
from speed.workloads import open_run, recorded_run, requests_of

START_SECONDS = 600.0


class RawEngine:
    """vllm.LLM in this process.

    Args:
        run: whose student and requests it serves.
        ours: with the arguments that our engine gives it; else at vLLM's defaults.
        seeded: whether requests have their seeds.
    """

    def __init__(self, run: Run, *, ours: bool = True, seeded: bool = True) -> None:
        self._seeded = seeded
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        import torch

        if not torch.cuda.is_available():
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        import vllm
        from vllm.sampling_params import RequestOutputKind

        from gradalign.engines.base import EngineSpec
        from gradalign.engines.vllm.settings import engine_arguments
        from gradalign.models import resolve_model

        model = resolve_model(run.config.student)
        spec = EngineSpec(model, run.sampling, max_model_len=run.resolved.max_model_len)
        self._params = vllm.SamplingParams
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._stops = list(run.resolved.stop_token_ids)
        arguments = engine_arguments(asdict(spec))
        if not ours:
            kept = ["model", "max_model_len", "dtype"]
            if not torch.cuda.is_available():
                # vLLM would take nearly all of the machine's memory, compile for minutes, and
                # fail at seeds.
                kept += ["kv_cache_memory_bytes", "enforce_eager", "enable_chunked_prefill"]
            arguments = {name: arguments[name] for name in kept if name in arguments}
        self._llm = vllm.LLM(**arguments)

    def ask(self, requests: list[Request]) -> int:
        """Answer them all in one call; return how many tokens were drawn."""
        params = [self._params_of(request) for request in requests]
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        found = self._llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in found)

    def step(self, requests: list[Request], counter: Any) -> None:
        """Answer them all in one go, adding the tokens of each to a shared counter at once."""
        engine = self._llm.llm_engine
        for number, request in enumerate(requests):
            prompt = {"prompt_token_ids": list(request.prompt_ids)}
            engine.add_request(str(number), prompt, self._params_of(request))
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    counter.value += len(output.outputs[0].token_ids)

    def _params_of(self, request: Request) -> Any:
        return self._params(
            temperature=1.0,
            top_p=1.0,
            top_k=-1,
            seed=request.seed if self._seeded else None,
            max_tokens=request.max_tokens,
            stop_token_ids=self._stops,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._final_only,
        )


def one_call(*, ours: bool = True, seeded: bool = True) -> Row:
    """All recorded requests in one LLM.generate; see `RawEngine`."""

    def row(name: str, folder: Path, work_folder: Path) -> Figures:
        run = recorded_run(folder)
        *timed, warm_up = run.shards()
        requests = [request for shard in timed for request in requests_of(run, shard)]
        opening: Figures = {}
        with clock(opening):
            engine = RawEngine(run, ours=ours, seeded=seeded)
        engine.ask(list(requests_of(run, warm_up)))
        figures: Figures = {"requests": len(requests), "start_seconds": opening["seconds"]}
        with clock(figures):
            figures["tokens"] = engine.ask(requests)
        return figures

    return row


def by_turns(name: str, folder: Path, work_folder: Path) -> Figures:
    """Two processes with an engine each and nothing else, one stopped now and then."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    counters = [context.Value("q", 0) for _ in range(2)]
    processes = [
        context.Process(target=_share, args=(folder, part, barrier, counters[part]))
        for part in range(2)
    ]
    for process in processes:
        process.start()
    turns = Turns(
        done=lambda: sum(counter.value for counter in counters),
        busy=lambda: processes[0].is_alive() and all(counter.value for counter in counters),
        processes=lambda: [psutil.Process(processes[1].pid)],
    )
    with turns:
        processes[0].join()  # the one that is never stopped, and so the first to be done
    processes[1].terminate()
    processes[1].join()
    if processes[0].exitcode:
        raise RuntimeError("a process with an engine failed")
    return turns.figures()


def _share(folder: Path, part: int, barrier: Any, counter: Any) -> None:
    """Answer every other shard; both begin when both are ready to."""
    run = open_run(folder)
    *timed, warm_up = run.shards()
    mine = [request for shard in timed[part::2] for request in planned_requests(run, shard)]
    engine = RawEngine(run)
    engine.ask(list(planned_requests(run, warm_up)))
    barrier.wait(START_SECONDS)
    engine.step(mine, counter)


def planned_requests(run: Run, shard: str) -> Iterator[Request]:
    """Yield what the branch stage will ask for first: everything, if allocation is uniform."""
    for item in plan_shard(run, shard):
        for request in item.branching.next_requests():
            if not request.finished:
                yield item.ask(request, run)
