"""`gradalign plan`: rollouts, tokens, passes, disk, memory and time of a run that is not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gradalign.alignment.weights import how_many_questions
from gradalign.config import ScoreConfig
from gradalign.diagnostics import chosen
from gradalign.order import stages
from gradalign.planning.calibration import Calibration, assumed
from gradalign.planning.disk import disk_bytes
from gradalign.planning.engine import EngineStarts, foreseen_starts
from gradalign.planning.figures import Figures, Times
from gradalign.planning.likely import Basis, Likely, around, likely_disk, probed, seen, typical
from gradalign.planning.memory import Memory, plan_memory
from gradalign.planning.times import stage_seconds, times_by_kind
from gradalign.planning.work import Work
from gradalign.stages import prefix
from gradalign.stages.answers import num_answers
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
        engine: how often the student's engine will be opened.
        likely: what it will likely come to, where the figures above are bounds.
        stages: likely seconds of every stage by name, in order; None where speeds are not known.
    """

    measured: bool
    figures: Figures
    seconds: Times
    memory: Memory
    workers: int
    assumptions: tuple[str, ...]
    engine: EngineStarts
    likely: Likely
    stages: Mapping[str, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as in run.json under `plan`."""
        return asdict(self)


def make_plan(
    config: ScoreConfig,
    resolved: Resolved,
    workload: Workload,
    calibration: Calibration | None = None,
    *,
    record: Mapping[str, Any] | None = None,
) -> Plan:
    """Multiply up what a run of these settings comes to.

    Args:
        config: all settings.
        resolved: what preparation made of them.
        workload: what preparation counted.
        calibration: from a probe; None to assume.
        record: run.json of a run of these settings in the output folder, if one is there.
    """
    memory = plan_memory(config, resolved)
    per = calibration or assumed(config, resolved, memory)
    run = Run(config, resolved)
    workers = config.num_workers if config.executor == "ray" else 1
    engine = foreseen_starts(run, memory, workers)
    remarks = (*resolved.warnings, *per.findings, *per.assumptions)
    if config.executor == "ray":
        remarks += ("memory and speed are this machine's; workers are taken to be like it",)
    if "weights" in config.alignment and len(run.named_teachers) > 1:
        remarks += (how_many_questions(),)

    def stages(counts: Figures, rates: Calibration) -> dict[str, float] | None:
        return stage_seconds(
            run, workload, counts, rates, memory.device, workers=workers, engine=engine
        )

    figures = _figures(run, workload, per)
    likely_per = probed(config, per) if per.measured else typical(config, resolved, per)
    basis: Basis = "probe" if per.measured else "typical"
    if record is not None and record.get("stages"):
        work = Work(run, workload, figures, memory.device)
        likely_per, basis = seen(work, record["stages"], likely_per), "begun"
    likely = _figures(run, workload, likely_per)
    likely = replace(likely, disk_bytes=likely_disk(run, likely.disk_bytes, likely.questions))
    planned = stages(likely, likely_per)
    seconds = times_by_kind(run, planned)
    if record is not None and "actual" in record:
        basis = "run"
        likely, seconds = (
            Figures(**record["actual"]["figures"]),
            Times(**record["actual"]["seconds"]),
        )
    return Plan(
        measured=per.measured,
        figures=figures,
        seconds=times_by_kind(run, stages(figures, per)),
        memory=memory,
        workers=workers,
        assumptions=remarks,
        engine=engine,
        likely=around(likely, seconds, basis, figures),
        stages=planned,
    )


def scored_by(run: Run) -> int:
    """Return how many times every continuation is scored: by the student and each teacher."""
    scores = any(stage.kind == "continuations" for stage in stages(run))
    return 1 + len(run.lacking_models()) + len(run.read_teachers) if scores else 0


def _figures(run: Run, workload: Workload, per: Calibration) -> Figures:
    config, questions = run.config, workload.num_questions
    spines = questions * config.num_rollouts
    spine_tokens = spines * per.response_tokens
    prompt_tokens = workload.prompt_tokens * config.num_rollouts
    continuations = questions * per.continuations
    continuation_tokens = continuations * per.continuation_tokens
    start = workload.prompt_tokens / questions + per.continuation_start
    teacher_passes = spines * len(run.read_teachers)
    teacher_tokens = (
        sum(workload.teacher_prompt_tokens.values()) * config.num_rollouts
        + len(run.read_teachers) * spine_tokens
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
        student_passes=spines,
        teacher_passes=teacher_passes,
        forced_tokens=round(prompt_tokens + spine_tokens + teacher_tokens),
        scored_tokens=round(scored_by(run) * continuation_tokens),
        disk_bytes=0,
        teacher_answers=num_answers(run, questions),
        teacher_answer_tokens=round(num_answers(run, questions) * per.response_tokens),
    )
    if "prefix" in chosen(config.diagnose):
        figures = replace(
            figures,
            prefix_continuations=prefix.num_continuations(spines, len(run.named_teachers)),
            prefix_tokens=round(prefix.num_tokens(spine_tokens, len(run.named_teachers))),
        )
    return replace(figures, disk_bytes=round(disk_bytes(run, figures)))
