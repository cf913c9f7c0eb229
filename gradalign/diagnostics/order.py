"""Which stages each diagnostic needs."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts import TeacherSpec
from gradalign.diagnostics.contexts_stage import DiagnoseContexts
from gradalign.diagnostics.horizon_stage import DiagnoseHorizon
from gradalign.diagnostics.stage import Diagnose
from gradalign.diagnostics.topk_stage import DiagnoseTopK
from gradalign.stages.base import Run, Stage
from gradalign.stages.prefix import ContinuePrefixes


def looks_ahead(run: Run) -> bool:
    """Whether the continuations are to be scored for the diagnostics' sake.

    That costs passes of every model, so it is done where `horizon` is asked for by name (or by
    `all`), and not by default.
    """
    return bool({"horizon", "all"} & set(run.config.diagnose))


def diagnose_stages(run: Run, names: Sequence[str]) -> list[Stage]:
    """Return the stages of some diagnostics, after all others of the run.

    Args:
        run: the run.
        names: diagnostics, as `gradalign.diagnostics.chosen` gives them.
    """
    stages: list[Stage] = []
    # Predictors are correlated for the run as a whole, when it is summarised.
    if "overlap" in names or "predictors" in names:
        stages.append(Diagnose())
    if "topk" in names:
        stages.append(DiagnoseTopK())
    if "contexts" in names:
        stages.append(DiagnoseContexts())
    if "horizon" in names:
        stages.append(DiagnoseHorizon(scored=looks_ahead(run)))
    if "prefix" in names:
        by_model: dict[str, list[TeacherSpec]] = {}
        for teacher in run.teachers:
            by_model.setdefault(run.model_of(teacher), []).append(teacher)
        stages.append(ContinuePrefixes(run.config.student, []))
        stages += [ContinuePrefixes(model, group) for model, group in by_model.items()]
    return stages
