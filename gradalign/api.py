"""The main job as a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.pipeline import plan_config, score_config
from gradalign.planning import Plan
from gradalign.progress import Display, make_reporter
from gradalign.report.report import Report


def score(
    *,
    student: str,
    teachers: Sequence[str],
    task: str,
    output_dir: str,
    methods: Sequence[str] | None = None,
    resume: bool = True,
    display: Display = "none",
    **options: Any,
) -> Report:
    """Score teachers and methods against the ideal gradient.

    Args:
        student: model id, folder, or demo:NAME.
        teachers: MODEL or MODEL+CONTEXT each; `self` is the student's own checkpoint.
        task: task name or a questions file.
        output_dir: folder or fsspec URL; a run of the same settings in it is taken up.
        methods: method specs; the default set if None.
        resume: False starts over.
        display: progress on stderr: auto, rich, plain or none.
        options: any other field of `ScoreConfig`, such as `num_rollouts` or `limit`.

    Returns:
        The finished report; the same as `gradalign.read_report(output_dir)`.

    Raises:
        UsageError: settings that cannot be used.
        GradalignError: what went wrong and what to do; finished shards are kept.
    """
    values = {
        "student": student,
        "teachers": list(teachers),
        "task": task,
        "output_dir": str(output_dir),
        **({} if methods is None else {"methods": list(methods)}),
        **options,
    }
    return score_config(ScoreConfig.build(values), resume=resume, reporter=make_reporter(display))


def plan(
    *,
    student: str,
    teachers: Sequence[str],
    task: str,
    output_dir: str | None = None,
    methods: Sequence[str] | None = None,
    probe: bool = False,
    display: Display = "none",
    **options: Any,
) -> Plan:
    """Make all checks of `score` and work out what the run will cost; nothing is written.

    Args:
        student: model id, folder, or demo:NAME.
        teachers: MODEL or MODEL+CONTEXT each; `self` is the student's own checkpoint.
        task: task name or a questions file.
        output_dir: where the run would be; checked if given.
        methods: method specs; the default set if None.
        probe: open the models, sample a few questions and measure. Without, lengths and numbers
            of candidates are upper bounds, and time rests on a share of the device's speed.
        display: progress of the probe on stderr: auto, rich, plain or none.
        options: any other field of `ScoreConfig`, such as `num_rollouts` or `limit`.

    Returns:
        Counts, seconds and memory; the same as `plan` in the run.json of a run.

    Raises:
        GradalignError: what the run itself would fail with before its models run.
    """
    values = {
        "student": student,
        "teachers": list(teachers),
        "task": task,
        "output_dir": str(output_dir or "gradalign-run"),
        **({} if methods is None else {"methods": list(methods)}),
        **options,
    }
    return plan_config(
        ScoreConfig.build(values),
        reporter=make_reporter(display),
        with_probe=probe,
        check_folder=output_dir is not None,
    )
