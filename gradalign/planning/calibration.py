"""What a plan multiplies: lengths, numbers of candidates and speeds, assumed or measured."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from gradalign.config import ScoreConfig
from gradalign.planning.memory import Memory
from gradalign.stages.base import Resolved
from gradalign.stages.branch.target import CAP

FORCED_SHARE = 0.3
SAMPLING_SHARE = 0.1
"""Shares of the device's matrix-product speed that passes and sampling are assumed to reach."""

MATMUL_SIZE = 1024
MATMUL_SECONDS = 0.1


@dataclass(frozen=True)
class Calibration:
    """Means per question or per spine, and speeds.

    Attributes:
        measured: whether a probe was made.
        response_tokens: length of a spine.
        nodes: chosen positions of a question.
        branches: candidates of a question, over its nodes.
        continuations: targeted rollouts that a question is allowed.
        continuation_start: response tokens before a continuation, the candidate included.
        continuation_tokens: length of a continuation.
        sampled_per_second: tokens generated per second, None if unknown.
        forced_per_second: tokens read per second in passes, by model; empty if unknown.
        open_seconds: from nothing to a model in memory, over all stages.
        assumptions: in words.
        findings: what the gate would say of the probe's responses, a sentence each.
    """

    measured: bool
    response_tokens: float
    nodes: float
    branches: float
    continuations: float
    continuation_start: float
    continuation_tokens: float
    sampled_per_second: float | None
    forced_per_second: Mapping[str, float]
    open_seconds: float
    assumptions: tuple[str, ...]
    findings: tuple[str, ...] = ()


def assumed(config: ScoreConfig, resolved: Resolved, memory: Memory) -> Calibration:
    """Take the most that the settings allow for counts, and a share of the device for speed."""
    longest = resolved.max_tokens
    per_spine = longest if config.node_sampler == "all" else min(config.nodes, longest)
    nodes = config.num_rollouts * per_spine
    branches = nodes * config.max_candidates
    speed = matmul_flops(memory.device, config.dtype)
    sizes = {model.name: model.parameters for model in memory.models}
    forced = {
        name: FORCED_SHARE * speed / (2.0 * parameters)
        for name, parameters in sizes.items()
        if parameters
    }
    student = sizes[config.student]
    return Calibration(
        measured=False,
        response_tokens=float(longest),
        nodes=float(nodes),
        branches=float(branches),
        continuations=float(allowed_continuations(config, branches)),
        continuation_start=longest / 2,
        continuation_tokens=longest / 2,
        sampled_per_second=SAMPLING_SHARE * speed / (2.0 * student) if student else None,
        forced_per_second=forced if len(forced) == len(sizes) else {},
        open_seconds=0.0,
        assumptions=(
            f"every response has --max-tokens ({longest}) tokens: an upper bound",
            f"every node has --max-candidates ({config.max_candidates}): an upper bound",
            "continuations begin half-way through a response",
            f"passes reach {FORCED_SHARE:.0%} and sampling {SAMPLING_SHARE:.0%} of the "
            f"{speed / 1e12:.3g} TFLOP/s that a matrix product reaches here",
            "use --probe to measure instead",
        ),
    )


def allowed_continuations(config: ScoreConfig, open_branches: float) -> float:
    """Return how many continuations a question with so many branches may get."""
    if config.budget is None:
        rounds = CAP if config.target_se is not None else 1
        return open_branches * config.continuations * rounds
    return max(float(config.budget), 2.0 * open_branches)  # every branch gets two


@cache
def matmul_flops(device: str, dtype: str) -> float:
    """Measure floating-point operations per second of a matrix product, once in a process.

    It takes a tenth of a second.
    """
    import torch

    kind = torch.float32
    if device != "cpu":
        kind = getattr(torch, dtype) if dtype != "auto" else torch.bfloat16
    size = MATMUL_SIZE if device == "cpu" else 4 * MATMUL_SIZE
    left = torch.ones((size, size), dtype=kind, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    torch.mm(left, left)
    wait()
    start, count = time.monotonic(), 0
    while time.monotonic() - start < MATMUL_SECONDS:
        torch.mm(left, left)
        wait()
        count += 1
    return count * 2.0 * math.pow(size, 3) / (time.monotonic() - start)
