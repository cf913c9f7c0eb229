"""`gradalign plan`: rollouts, tokens, passes, disk, memory and time of a run that is not yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.diagnostics import chosen
from gradalign.order import stages
from gradalign.planning.calibration import Calibration, assumed
from gradalign.planning.disk import disk_bytes
from gradalign.planning.figures import Figures, Times
from gradalign.planning.memory import Memory, plan_memory
from gradalign.stages import prefix
from gradalign.stages.base import Resolved, Run
from gradalign.stages.preparation.workload import Workload


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        measured: whether a probe stands behind it; if not, counts are upper bounds.
        figures: counts.
        seconds: wall time, over all workers.
        memory: what the models need and what is there.
        workers: how many share the work.
        assumptions: in words.
    """

    measured: bool
    figures: Figures
    seconds: Times
    memory: Memory
    workers: int
    assumptions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as in run.json under `plan`."""
        return asdict(self)


def make_plan(
    config: ScoreConfig,
    resolved: Resolved,
    workload: Workload,
    calibration: Calibration | None = None,
) -> Plan:
    """Multiply up what a run of these settings comes to.

    Args:
        config: all settings.
        resolved: what preparation made of them.
        workload: what preparation counted.
        calibration: from a probe; None to assume.
    """
    memory = plan_memory(config, resolved)
    per = calibration or assumed(config, resolved, memory)
    run = Run(config, resolved)
    figures = _figures(run, workload, per)
    workers = config.num_workers if config.executor == "ray" else 1
    remarks = (*resolved.warnings, *per.assumptions)
    if config.executor == "ray":
        remarks += ("memory and speed are this machine's; workers are taken to be like it",)
    return Plan(
        measured=per.measured,
        figures=figures,
        seconds=_times(run, workload, figures, per, workers),
        memory=memory,
        workers=workers,
        assumptions=remarks,
    )


def scored_by(run: Run) -> int:
    """Return how many times every continuation is scored: by the student and each teacher."""
    scores = any(stage.kind == "continuations" for stage in stages(run))
    return 1 + len(run.lacking_models()) + len(run.teachers) if scores else 0


def student_reads(run: Run) -> int:
    """Return how many times the student reads every spine."""
    own = 3 if run.config.alignment == "update" else 2
    # A teacher that lacks tokens has the student read once more, without them.
    spaces = {run.compared_tokens(teacher.label) for teacher in run.teachers}
    return own + len(run.lacking_models()) + max(len(spaces) - 1, 0)


def _figures(run: Run, workload: Workload, per: Calibration) -> Figures:
    config, questions = run.config, workload.num_questions
    spines = questions * config.num_rollouts
    spine_tokens = spines * per.response_tokens
    prompt_tokens = workload.prompt_tokens * config.num_rollouts
    continuations = questions * per.continuations
    continuation_tokens = continuations * per.continuation_tokens
    start = workload.prompt_tokens / questions + per.continuation_start
    teacher_passes = spines * len(run.teachers)
    teacher_tokens = (
        sum(workload.teacher_prompt_tokens.values()) * config.num_rollouts
        + len(run.teachers) * spine_tokens
    )
    figures = Figures(
        questions=questions,
        spines=spines,
        spine_prompt_tokens=prompt_tokens,
        spine_tokens=round(spine_tokens),
        nodes=round(questions * per.nodes),
        branches=round(questions * per.branches),
        continuations=round(continuations),
        continuation_prompt_tokens=round(continuations * start),
        continuation_tokens=round(continuation_tokens),
        student_passes=student_reads(run) * spines,
        teacher_passes=teacher_passes,
        forced_tokens=round(student_reads(run) * (prompt_tokens + spine_tokens) + teacher_tokens),
        scored_tokens=round(scored_by(run) * continuation_tokens),
        disk_bytes=0,
    )
    if "prefix" in chosen(config.diagnose):
        figures = replace(
            figures,
            prefix_continuations=prefix.num_continuations(spines, len(run.teachers)),
            prefix_tokens=round(prefix.num_tokens(spine_tokens, len(run.teachers))),
        )
    return replace(figures, disk_bytes=round(disk_bytes(run, figures)))


def _times(run: Run, workload: Workload, figures: Figures, per: Calibration, workers: int) -> Times:
    config = run.config
    if per.sampled_per_second is None or not per.forced_per_second:
        return Times(None, None, None, None, None, None)
    speed = per.forced_per_second
    own = figures.spine_prompt_tokens + figures.spine_tokens
    distribute = student_reads(run) * own / speed[config.student]
    once = figures.scored_tokens / max(scored_by(run), 1)
    score = once / speed[config.student]
    for teacher in run.teachers:
        model = run.model_of(teacher)
        prompts = workload.teacher_prompt_tokens[teacher.label] * config.num_rollouts
        distribute += (prompts + figures.spine_tokens) / speed[model]
        score += once / speed[model]
    sample = figures.spine_tokens / per.sampled_per_second
    branch = figures.continuation_tokens / per.sampled_per_second
    other = figures.prefix_tokens / per.sampled_per_second  # as if teachers were as quick
    # Workers open every model by themselves, all at the same time.
    total = (sample + distribute + branch + score + other) / workers + per.open_seconds
    return Times(
        sample=round(sample / workers, 1),
        distribute=round(distribute / workers, 1),
        branch=round(branch / workers, 1),
        score=round(score / workers, 1),
        other=round(other / workers + per.open_seconds, 1),
        total=round(total, 1),
    )
