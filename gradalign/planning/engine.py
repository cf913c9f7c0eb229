"""The student's engine in a plan: what will be asked of it, and how often it will be opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradalign.engines.base import Foreseen
from gradalign.engines.held import Prospect, shortage
from gradalign.engines.vllm.settings import CPU_ROWS, cpu_cache_bytes
from gradalign.order import student_samplers
from gradalign.planning.memory import Memory
from gradalign.stages.base import Run


@dataclass(frozen=True)
class EngineStarts:
    """How often the student's engine will likely be opened.

    Attributes:
        number: over all workers.
        reason: why, in words.
    """

    number: int
    reason: str


def foreseen_starts(run: Run, memory: Memory, workers: int) -> EngineStarts:
    """Foretell what `gradalign.engines.held` will do, from what is free now."""
    uses = len(student_samplers(run))
    if run.resolved.engine == "server":
        return EngineStarts(1, "servers run already")
    student = memory.models[0].weight_bytes
    on_gpu = memory.device == "cuda"
    if uses == 1:
        return EngineStarts(workers, "one stage samples")
    if on_gpu and run.resolved.engine == "vllm":
        why = shortage("the sleeping engine", _of_all(student, workers), memory.host_free_bytes)
        stays = "sleeps while other models are read"
    else:
        others = None if student is None else memory.needed_bytes
        left = memory.free_bytes - workers * ((student or 0) + _cache_bytes(run, memory))
        why = shortage("other models", others if on_gpu else _of_all(others, workers), left)
        stays = "idles while other models are read"
    if why:
        return EngineStarts(uses * workers, why)
    return EngineStarts(workers, stays)


def _cache_bytes(run: Run, memory: Memory) -> int:
    """Return what an idle engine keeps for keys and values: vLLM all of it, transformers none."""
    if run.resolved.engine != "vllm":
        return 0
    rows = int(run.config.engine_args.get("max_num_seqs", CPU_ROWS))
    token_bytes = memory.models[0].kv_bytes_per_token or 0
    return cpu_cache_bytes(rows, run.resolved.max_model_len, token_bytes, memory.free_bytes)


def prospect(run: Run, plan: Mapping[str, Any]) -> Prospect:
    """Say what is to come of the student's engine.

    Args:
        run: the run, whose folder is looked at for what is done.
        plan: its plan, as in run.json.
    """
    figures, memory = plan["likely"]["figures"], plan["memory"]
    counts = ("spines", "continuations", "prefix_continuations")
    tokens = ("spine_tokens", "continuation_tokens", "prefix_tokens")
    workers = run.config.num_workers if run.config.executor == "ray" else 1
    shards = run.shards()
    return Prospect(
        uses=tuple(
            stage.name
            for stage in student_samplers(run)
            if not all(stage.done(run, shard) for shard in shards)
        ),
        work=Foreseen(
            requests=sum(figures[name] for name in counts) // workers,
            tokens=sum(figures[name] for name in tokens) // workers,
            weight_bytes=memory["models"][0]["weight_bytes"],
        ),
        device=run.config.device,
        # Workers may be on one machine, and are all at the same stage.
        student_bytes=_of_all(memory["models"][0]["weight_bytes"], workers),
        others_bytes=_of_all(memory["needed_bytes"], workers if memory["device"] != "cuda" else 1),
    )


def _of_all(size: int | None, workers: int) -> int | None:
    return None if size is None else size * workers
