"""Seconds of every stage, from counts and speeds."""

from __future__ import annotations

from collections.abc import Mapping

from gradalign.analysis.gradients import WeightGradients
from gradalign.analysis.steps import AdamwSteps
from gradalign.order import stages, student_samplers
from gradalign.planning.calibration import Calibration
from gradalign.planning.engine import EngineStarts
from gradalign.planning.figures import Figures, Times, times_of
from gradalign.planning.memory import Memory
from gradalign.stages.base import Run, Stage
from gradalign.stages.continuations import TeacherContinuations
from gradalign.stages.derivatives import IdealDerivatives
from gradalign.stages.distributions import StudentPositions, TeacherPositions
from gradalign.stages.gradients import IdealUpdates
from gradalign.stages.preparation.workload import Workload

OPEN_SECONDS = 0.3
READ_BYTES_PER_SECOND = 1e9
"""Opening a model: a constant, and its weights from a disk."""

BACKWARD = 2.0
"""Forward passes that a backward pass takes as long as."""

DERIVATIVE = 2.0
"""Forward passes that derivatives of logits take: two differences, or one with its tangent."""

ARM_SECONDS = 1e-4
"""Arithmetic per node, teacher and method (3 s for the 27,648 of `gradalign demo`)."""


def stage_seconds(
    run: Run,
    workload: Workload,
    figures: Figures,
    per: Calibration,
    memory: Memory,
    *,
    workers: int,
    engine: EngineStarts,
) -> dict[str, float] | None:
    """Return how long each stage takes, in order, by name; None where speeds are not known."""
    if per.sampled_per_second is None or not per.forced_per_second:
        return None
    listed = stages(run)
    opening = [stage for stage in listed if stage.kind != "analysis"]
    if engine.number <= workers:  # the others find the student's engine open
        kept = student_samplers(run)[1:]
        opening = [stage for stage in opening if stage not in kept]
    weights = {model.name: model.weight_bytes or 0 for model in memory.models}
    found = {}
    for stage in listed:
        work = _work(stage, listed, run, workload, figures, per)
        opened = 0.0
        if stage in opening:
            model = getattr(stage, "model", None) or run.config.student
            opened = (
                per.open_seconds / len(opening)
                if per.measured
                else OPEN_SECONDS + weights.get(model, 0) / READ_BYTES_PER_SECOND
            )
        # Workers open every model by themselves, all at the same time.
        found[stage.name] = work / workers + opened
    return found


def _work(
    stage: Stage,
    listed: list[Stage],
    run: Run,
    workload: Workload,
    figures: Figures,
    per: Calibration,
) -> float:
    config, read = run.config, per.forced_per_second
    generated = per.sampled_per_second or 1.0
    once = figures.continuation_tokens
    if stage.kind == "sample":
        return figures.spine_tokens / generated
    if stage.kind == "branch":
        return figures.continuation_tokens / generated
    if stage.kind == "prefix":  # as if teachers were as quick
        share = sum(other.kind == "prefix" for other in listed)
        return figures.prefix_tokens / generated / share
    if stage.kind == "analysis":
        return ARM_SECONDS * figures.nodes * len(run.teachers) * len(config.methods)
    if isinstance(stage, TeacherPositions):
        prompts = sum(workload.teacher_prompt_tokens[item.label] for item in stage.teachers)
        tokens = prompts * config.num_rollouts + len(stage.teachers) * figures.spine_tokens
        return tokens / read[stage.model]
    if isinstance(stage, TeacherContinuations):
        return len(stage.teachers) * once / read[stage.model]
    if stage.kind == "continuations":
        return once / read[config.student]
    spines = (figures.spine_prompt_tokens + figures.spine_tokens) / read[config.student]
    if isinstance(stage, WeightGradients):
        return spines * (1 + BACKWARD * stage.passes(run))
    if isinstance(stage, AdamwSteps):
        return spines * (1 + BACKWARD * len(stage.arms))
    if isinstance(stage, IdealUpdates):
        return spines * (1 + BACKWARD)
    if isinstance(stage, IdealDerivatives):
        return spines * (1 + BACKWARD + DERIVATIVE)
    if isinstance(stage, StudentPositions):
        return spines
    return figures.nodes / read[config.student]  # by the output layer alone


def times_by_kind(run: Run, seconds: Mapping[str, float] | None) -> Times:
    """Add the seconds of stages up by kind of work."""
    if seconds is None:
        return Times(None, None, None, None, None, None)
    kinds = {stage.name: stage.kind for stage in stages(run)}
    return times_of(
        {name: {"kind": kinds[name], "seconds": value} for name, value in seconds.items()}
    )


SHARES: dict[str, float] = {
    "sample": 1.0,
    "distributions": 0.5,
    "branch": 8.0,
    "continuations": 4.0,
    "prefix": 2.0,
    "analysis": 1.0,
}
"""How long stages take beside each other, where no speed is known."""


def expected(run: Run, planned: Mapping[str, float] | None) -> dict[str, float]:
    """Return likely seconds for every stage of a run, in order, for what shows its progress.

    Args:
        run: the run.
        planned: what its plan says; a stage that was added since is like others of its kind.
    """
    return {
        stage.name: (planned or {}).get(stage.name, SHARES[stage.kind]) for stage in stages(run)
    }
