"""The stages of a run, in order."""

from __future__ import annotations

from gradalign import diagnostics
from gradalign.analysis.align import Align
from gradalign.analysis.update import StudentHidden, UpdateDirections
from gradalign.contexts import TeacherSpec
from gradalign.diagnostics.order import diagnose_stages, looks_ahead
from gradalign.stages.base import Run, Stage
from gradalign.stages.branch.stage import Branch
from gradalign.stages.continuations import StudentContinuations, TeacherContinuations
from gradalign.stages.distributions import (
    CommonPositions,
    StudentPositions,
    StudentSupports,
    TeacherPositions,
)
from gradalign.stages.sample import Sample


def stages(run: Run) -> list[Stage]:
    """Return the stages of a run; one model is in memory at a time."""
    by_model = _by_model(run)
    return [
        Sample(),
        StudentPositions(),
        *(CommonPositions(model) for model in run.lacking_models()),
        *(TeacherPositions(model, teachers) for model, teachers in by_model.items()),
        StudentSupports(),
        Branch(),
        *scoring_stages(run),
        Align(),
        *_update_stages(run),
        *diagnose_stages(run, diagnostics.chosen(run.config.diagnose)),
    ]


def _update_stages(run: Run) -> list[Stage]:
    """Return the stages that update-level alignment adds, if it is asked for."""
    return [StudentHidden(), UpdateDirections()] if run.config.alignment == "update" else []


def scoring_stages(run: Run) -> list[Stage]:
    """Return the stages that score continuations, if a method or a diagnostic looks at them."""
    if not (run.needs_continuation_scores or looks_ahead(run)):
        return []
    return [
        StudentContinuations(),
        *(StudentContinuations(model) for model in run.lacking_models()),
        *(TeacherContinuations(model, group) for model, group in _by_model(run).items()),
    ]


def _by_model(run: Run) -> dict[str, list[TeacherSpec]]:
    grouped: dict[str, list[TeacherSpec]] = {}
    for teacher in run.teachers:
        grouped.setdefault(run.model_of(teacher), []).append(teacher)
    return grouped
