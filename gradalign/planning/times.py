"""Seconds of every stage, from counts and speeds."""

from __future__ import annotations

from collections.abc import Mapping

from gradalign.order import stages, student_samplers
from gradalign.planning.calibration import Calibration
from gradalign.planning.engine import EngineStarts
from gradalign.planning.figures import Figures, Times, times_of
from gradalign.planning.work import Work
from gradalign.stages.base import Run, Stage
from gradalign.stages.continuations import TeacherContinuations
from gradalign.stages.distributions import TeacherPositions
from gradalign.stages.preparation.workload import Workload


def stage_seconds(
    run: Run,
    workload: Workload,
    figures: Figures,
    per: Calibration,
    device: str,
    *,
    workers: int,
    engine: EngineStarts,
) -> dict[str, float] | None:
    """Return how long each stage takes, in order, by name; None where speeds are not known."""
    if per.drawing is None or per.sampling is None or not per.reading:
        return None
    listed = stages(run)
    opening = [stage for stage in listed if stage.kind != "analysis"]
    if engine.number <= workers:  # the others find the student's engine open
        kept = student_samplers(run)[1:]
        opening = [stage for stage in opening if stage not in kept]
    work = Work(run, workload, figures, device)
    found = {}
    for stage in listed:
        opened = per.openings.get(stage.name, 0.0) if stage in opening else 0.0
        # Workers open every model by themselves, all at the same time.
        found[stage.name] = _working(stage, work, per) / workers + opened
    return found


def _working(stage: Stage, work: Work, per: Calibration) -> float:
    """Return the seconds of a stage without its opening."""
    rows = per.row_seconds * work.rows(stage)
    if stage.kind == "analysis":
        return rows
    model = work.run.config.student
    if isinstance(stage, TeacherPositions | TeacherContinuations):
        model = stage.model
    share = 1
    if stage.kind in ("prefix", "answers"):  # as if teachers were as quick
        share = sum(other.kind == stage.kind for other in stages(work.run))
    drawn = {
        "sample": per.sampling,
        "branch": per.drawing,
        "prefix": per.drawing,
        "answers": per.sampling,
    }
    pace = drawn[stage.kind] if stage.kind in drawn else per.reading[model]
    assert pace is not None
    return rows + pace.seconds(work.load(stage)) / share


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
    "answers": 1.0,
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
