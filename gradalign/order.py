"""The stages of a run, in order."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign import diagnostics
from gradalign.analysis.align import AlignmentTables, arms_of
from gradalign.analysis.gradients import WeightGradients
from gradalign.analysis.gram import GramTable, best_arms
from gradalign.analysis.stage import Analysis
from gradalign.analysis.steps import AdamwSteps
from gradalign.diagnostics.horizon import looks_ahead
from gradalign.rehearsal.stages import Rehearsal, StepLength
from gradalign.stages.answers import TeacherAnswers
from gradalign.stages.base import Run, Stage
from gradalign.stages.branch.reverify import Reverify
from gradalign.stages.branch.stage import Branch
from gradalign.stages.continuations import StudentContinuations, TeacherContinuations
from gradalign.stages.deltas import DeltaTables
from gradalign.stages.distributions import (
    StudentPositions,
    StudentSupports,
    TeacherPositions,
)
from gradalign.stages.prefix import ContinuePrefixes
from gradalign.stages.sample import Sample
from gradalign.stages.weights.answer_gradients import AnswerGradients
from gradalign.stages.weights.derivatives import IdealDerivatives
from gradalign.stages.weights.gradients import IdealUpdates


def stages(run: Run) -> list[Stage]:
    """Return the stages of a run; one model is at work at a time."""
    ideal: list[Stage] = []
    gradients: list[Stage] = []
    if "weights" in run.config.alignment:
        ideal = [IdealUpdates(), IdealDerivatives()]
        gradients = [WeightGradients(tuple(arms_of(run)))]
        if run.config.weights_adamw is not None:
            gradients.append(AdamwSteps(tuple(arms_of(run))))
    if run.config.rehearse:
        gradients += [StepLength(tuple(arms_of(run))), Rehearsal(tuple(arms_of(run)))]
    answers: list[Stage] = []
    if run.config.teacher_accuracy:
        answers = [TeacherAnswers(*item) for item in run.teachers_by_model.items()]
        if "weights" in run.config.alignment:
            answers.append(AnswerGradients())
    return [
        Sample(),
        StudentPositions(),
        *(TeacherPositions(model, group) for model, group in run.teachers_by_model.items()),
        StudentSupports(),
        *([DeltaTables()] if run.deltas else []),
        Reverify() if run.resolved.allocated_by else Branch(),
        *answers,
        *ideal,
        *analysis_stages(run, diagnostics.chosen(run.config.diagnose)),
        *gradients,
    ]


def student_samplers(run: Run) -> list[Stage]:
    """Return the stages that sample from the student, in order."""
    return [
        stage
        for stage in stages(run)
        if isinstance(stage, Sample | Branch)
        or (isinstance(stage, ContinuePrefixes) and not stage.teachers)
    ]


def analysis_stages(run: Run, names: Sequence[str]) -> list[Stage]:
    """Return what comes after the targeted rollouts: alignment and some diagnostics.

    Args:
        run: the run.
        names: diagnostics, as `gradalign.diagnostics.chosen` gives them.
    """
    chosen = [diagnostics.load(name) for name in names]
    sampling = [stage for item in chosen for stage in item.stages(run)]
    writers = [writer for item in chosen for writer in item.writers(run)]
    if any(best_arms(run)):
        writers.append(GramTable())
    return [
        *scoring_stages(run),
        *sampling,
        Analysis((AlignmentTables(), *dict.fromkeys(writers))),
    ]


def scoring_stages(run: Run) -> list[Stage]:
    """Return the stages that score continuations, if a method or a diagnostic looks at them."""
    by_model = {
        model: group
        for model, group in run.teachers_by_model.items()
        if run.resolved.matching.get(model) != "bytes"  # known at the nodes only
    }
    if not by_model or not (run.needs_continuation_scores or looks_ahead(run)):
        return []
    return [
        StudentContinuations(),
        *(StudentContinuations(model) for model in run.lacking_models()),
        *(TeacherContinuations(model, group) for model, group in by_model.items()),
    ]
