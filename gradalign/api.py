"""What the commands do, as functions. Each imports what it needs when it is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gradalign.config import ScoreConfig
from gradalign.progress import Display, reporting
from gradalign.report.report import Report

if TYPE_CHECKING:
    from gradalign.planning import Plan
    from gradalign.report.compare import ArmDifference

Place = str | os.PathLike[str] | Report
"""A run: its folder or fsspec URL, or an opened report."""


def score(
    *,
    student: str,
    teachers: Sequence[str],
    task: str,
    output_dir: str,
    methods: Sequence[str] | None = None,
    resume: bool = True,
    display: Display = "auto",
    **options: Any,
) -> Report:
    """Score teachers and methods against the ideal gradient.

    Args:
        student: model id, folder, or demo:NAME.
        teachers: MODEL, MODEL+CONTEXT or delta:A,B each; `self` is the student's own checkpoint.
        task: task name or a questions file.
        output_dir: folder or fsspec URL; a run of the same settings in it is taken up.
        methods: method specs; the default set if None.
        resume: False starts over.
        display: progress. auto: bars in a notebook and on a terminal, else a line on stderr every
            30 seconds; rich: bars; plain: lines; none: nothing.
        options: any other field of `ScoreConfig`, such as `num_rollouts` or `limit`.

    Returns:
        The finished report; the same as `gradalign.read_report(output_dir)`.

    Raises:
        UsageError: settings that cannot be used.
        GateError: the sampled responses promise nothing (`go_on=True` goes on all the same).
        GradalignError: what went wrong and what to do; finished shards are kept.
    """
    config = _config(student, teachers, task, output_dir, methods, options)
    with reporting(display, changes=False) as reporter:
        from gradalign.pipeline import score_config

        return score_config(config, resume=resume, reporter=reporter)


def plan(
    *,
    student: str,
    teachers: Sequence[str],
    task: str,
    output_dir: str | None = None,
    methods: Sequence[str] | None = None,
    probe: bool = False,
    display: Display = "auto",
    **options: Any,
) -> Plan:
    """Make all checks of `score` and work out what the run will cost; nothing is written.

    Args:
        student: model id, folder, or demo:NAME.
        teachers: MODEL, MODEL+CONTEXT or delta:A,B each; `self` is the student's own checkpoint.
        task: task name or a questions file.
        output_dir: where the run would be; checked if given.
        methods: method specs; the default set if None.
        probe: open the models, sample a few questions and measure. Without, lengths and numbers
            of candidates are upper bounds, and time rests on a share of the device's speed.
        display: progress of the checks and the probe; as for `score`.
        options: any other field of `ScoreConfig`, such as `num_rollouts` or `limit`.

    Returns:
        Counts, seconds and memory; the same as `plan` in the run.json of a run.

    Raises:
        GradalignError: what the run itself would fail with before its models run.
    """
    config = _config(student, teachers, task, output_dir or "gradalign-run", methods, options)
    with reporting(display, changes=False) as reporter:
        from gradalign.pipeline import plan_config

        return plan_config(
            config,
            reporter=reporter,
            with_probe=probe,
            check_folder=output_dir is not None,
        )


def diagnose(run: Place, names: Sequence[str] = (), *, display: Display = "auto") -> Report:
    """Compute diagnostics that a finished run lacks, from what it holds.

    Args:
        run: its folder or fsspec URL, or its report.
        names: which; all of them if none are given, also the one that samples.
        display: progress. auto: bars in a notebook and on a terminal, else a line on stderr every
            30 seconds; rich: bars; plain: lines; none: nothing.

    Returns:
        The report, opened anew; `diagnostics_summary` has the result.

    Raises:
        UsageError: an unknown name.
        RunError: no run is there, or one that is not finished.
    """
    with reporting(display, changes=False) as reporter:
        from gradalign.pipeline import diagnose_run

        return diagnose_run(_path(run), _several(names), reporter=reporter)


def rescore(
    run: Place,
    *,
    methods: Sequence[str] = (),
    teachers: Sequence[str] = (),
    alignment: str | Sequence[str] = (),
    weights_space: str | None = None,
    weights_adamw: str | None = None,
    weights_quarters: bool | None = None,
    verifier: str | None = None,
    display: Display = "auto",
) -> Report:
    """Add methods and teachers to a finished run, or change its verifier, from its stored rollouts.

    Candidates stay those of the run: a token that only the new teacher likes was never forced.
    The run is changed in place.

    Args:
        run: its folder or fsspec URL, or its report.
        methods: method specs to add.
        teachers: MODEL, MODEL+CONTEXT or delta:A,B to add.
        alignment: `weights`, to add to what the run has.
        weights_space: where `weights` is measured; the run's own setting by default, as for the
            next two.
        weights_adamw: `first`, or an optimizer's file: steps of AdamW beside plain ones.
        weights_quarters: whether to take it by quarters of the responses too.
        verifier: judges the stored responses and rollouts anew; the former verdicts stay in the
            table `verdicts`.
        display: progress. auto: bars in a notebook and on a terminal, else a line on stderr every
            30 seconds; rich: bars; plain: lines; none: nothing.

    Returns:
        The report of the run as it is now, opened anew.

    Raises:
        UsageError: nothing new is asked for, or a name is unknown.
        RunError: no run is there, or one that is not finished.
    """
    with reporting(display, changes=False) as reporter:
        from gradalign.rescoring import rescore_run

        return rescore_run(
            _path(run),
            methods=_several(methods),
            teachers=_several(teachers),
            alignment=_several(alignment),
            weights_space=weights_space,
            weights_adamw=weights_adamw,
            weights_quarters=weights_quarters,
            verifier=verifier,
            reporter=reporter,
        )


def rehearse(
    run: Place,
    *,
    steps: Sequence[int] = (),
    step: str | None = None,
    responses: int | None = None,
    self_teachers: Literal["fixed", "moving"] | None = None,
    display: Display = "auto",
) -> Report:
    """Rehearse trainings on a finished run: predict success over steps that are not trained.

    The student is moved as every arm's training would move it, and its success is worked out from
    the stored responses and rollouts. `Report.rehearsal` has the curves. The run is changed in
    place, and takes alignment in the space of the weights along.

    Args:
        run: its folder or fsspec URL, or its report.
        steps: numbers of steps to predict success after; the run's own setting by default, as for
            the next two.
        step: one step, such as `kl=0.001`, `length=0.006`, `lr=0.1`, `adamw:lr=1e-6` or `auto`.
        responses: per question of a step.
        self_teachers: whether teachers of the student's own checkpoint stay it, or move with it.
        display: progress. auto: bars in a notebook and on a terminal, else a line on stderr every
            30 seconds; rich: bars; plain: lines; none: nothing.

    Returns:
        The report of the run as it is now, opened anew.

    Raises:
        UsageError: no such step.
        RunError: no run is there, or one that is not finished.
    """
    with reporting(display, changes=False) as reporter:
        from gradalign.rescoring import rescore_run

        settings = {
            "rehearse": True,
            "rehearse_steps": sorted(set(steps)) or None,
            "rehearse_step": step,
            "rehearse_responses": responses,
            "rehearse_self": self_teachers,
        }
        return rescore_run(_path(run), rehearsal=settings, reporter=reporter)


def compare(first: Place, second: Place, *, level: float = 0.95) -> list[ArmDifference]:
    """Compare every teacher and method that two runs share; second minus first.

    Paired on the same positions of the same responses where the runs share them, else on the
    same questions, else as independent runs.

    Args:
        first: a run's folder or fsspec URL, or its report.
        second: the other run's.
        level: confidence of the intervals, in [0.5, 1).

    Returns:
        A difference of pooled alignment per teacher and method, with interval and p-value; and,
        where both runs have alignment in one space of the weights, of the gains per step.

    Raises:
        RunError: no run is there, or the runs share no teacher and method.
        UsageError: `level` is out of range.
    """
    from gradalign.report.compare import compare_runs

    return compare_runs(_opened(first), _opened(second), level=level)


def _config(
    student: str,
    teachers: Sequence[str],
    task: str,
    output_dir: str,
    methods: Sequence[str] | None,
    options: dict[str, Any],
) -> ScoreConfig:
    values = {
        "student": student,
        "teachers": list(_several(teachers)),
        "task": task,
        "output_dir": str(output_dir),
        **({} if methods is None else {"methods": list(_several(methods))}),
        **options,
    }
    return ScoreConfig.build(values)


def _path(run: Place) -> str:
    return run.path if isinstance(run, Report) else str(run)


def _opened(run: Place) -> Report:
    return run if isinstance(run, Report) else Report(str(run))


def _several(names: Sequence[str]) -> Sequence[str]:
    """Take a single name for a list of one, not for its letters."""
    return [names] if isinstance(names, str) else names
