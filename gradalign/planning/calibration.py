"""What a plan multiplies: lengths, numbers of candidates and speeds, assumed or measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradalign.config import ScoreConfig
from gradalign.planning.machine import this_machine
from gradalign.planning.memory import Memory
from gradalign.planning.opening import assumed_openings
from gradalign.planning.pace import Pace, drawing_pace, reading_pace
from gradalign.stages.base import Resolved, Run
from gradalign.stages.branch.target import CAP

ROW_SECONDS = 1e-4
"""Of `gradalign demo` on a core of its own: 0.9 to 1.5 for a position under a teacher, a node's
distribution, a targeted rollout, and an alignment of a node."""


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
        sampling: of the student's engine where it draws spines, None if unknown.
        drawing: the same where it draws targeted rollouts.
        reading: of teacher-forced passes, by model; empty if unknown.
        row_seconds: for a row of a table, or an alignment: arithmetic without a model.
        openings: seconds from nothing to a model in memory, by the stage that opens it.
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
    sampling: Pace | None
    drawing: Pace | None
    reading: Mapping[str, Pace]
    row_seconds: float
    openings: Mapping[str, float]
    assumptions: tuple[str, ...]
    findings: tuple[str, ...] = ()


def assumed(config: ScoreConfig, resolved: Resolved, memory: Memory) -> Calibration:
    """Take the most that the settings allow for counts, and a share of the device for speed."""
    longest = resolved.max_tokens
    per_spine = longest if config.node_sampler == "all" else min(config.nodes, longest)
    nodes = config.num_rollouts * per_spine
    branches = nodes * config.max_candidates
    machine = this_machine(memory.device, config.dtype)
    paces = {model.name: reading_pace(model, memory.device, machine) for model in memory.models}
    drawing = drawing_pace(memory.models[0], memory.device, resolved.engine, machine)
    known = {name: pace for name, pace in paces.items() if pace is not None}
    return Calibration(
        measured=False,
        response_tokens=float(longest),
        nodes=float(nodes),
        branches=float(branches),
        continuations=float(allowed_continuations(config, branches)),
        continuation_start=longest / 2,
        continuation_tokens=longest / 2,
        sampling=drawing,
        drawing=drawing,
        reading=known if len(known) == len(paces) else {},
        row_seconds=ROW_SECONDS * machine.crowding,
        openings=assumed_openings(Run(config, resolved), memory, machine),
        assumptions=(
            f"every response has --max-tokens ({longest}) tokens: an upper bound",
            f"every node has --max-candidates ({config.max_candidates}): an upper bound",
            "continuations begin half-way through a response",
            f"speed from what a matrix product reaches here, {machine.flops / 1e12:.3g} TFLOP/s, "
            f"with other programs taking {1 - 1 / machine.crowding:.0%} of the cores",
            "use --probe to measure instead",
        ),
    )


def allowed_continuations(config: ScoreConfig, open_branches: float) -> float:
    """Return how many continuations a question with so many branches may get."""
    if config.budget is None:
        rounds = CAP if config.target_se is not None else 1
        return open_branches * config.continuations * rounds
    return max(float(config.budget), 2.0 * open_branches)  # every branch gets two
