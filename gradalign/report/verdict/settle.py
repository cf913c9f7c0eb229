"""What would settle an open comparison, as a command that can be followed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scipy.special import ndtri  # scipy.stats takes seconds to import

from gradalign.estimates import Difference
from gradalign.report.verdict.recommendation import Judgement, Settle

if TYPE_CHECKING:
    from gradalign.report.report import Report

POWER = 0.8
"""The chance of seeing a difference of the estimated size that `questions_needed` aims at."""


def settle_of(
    report: Report, found: Judgement, num_questions: int, level: float
) -> tuple[Settle, ...]:
    """Return what is open and decides the verdict, with what it would take.

    Args:
        report: the run.
        found: the answers to its three questions.
        num_questions: questions that count.
        level: confidence.
    """
    metadata = report.metadata
    stages = metadata.get("stages", {})
    rollouts = metadata.get("totals", {}).get("continuations", 0) / max(num_questions, 1)
    seconds = sum(stage["seconds"] for stage in stages.values()) / max(num_questions, 1)
    size = metadata.get("task", {}).get("size")
    out = []
    for pair in _open(found, level):
        questions = questions_needed(pair, num_questions)
        extra = math.nan
        if math.isfinite(questions):
            extra = max(math.ceil(questions) - num_questions, 1)
        limit = None if math.isnan(extra) else num_questions + int(extra)
        reachable = limit is not None and (size is None or limit <= size)
        out.append(
            Settle(
                open=pair,
                questions=questions,
                extra_questions=extra,
                extra_rollouts=extra * rollouts,
                extra_seconds=extra * seconds,
                task_size=size,
                command=_command(report, limit) if reachable and limit is not None else "",
            )
        )
    return tuple(out)


def _command(report: Report, limit: int) -> str:
    run = report.path
    record = shlex.quote(f"{run.rstrip('/')}/run.json")
    return f"gradalign score --config {record} --limit {limit} --output-dir {shlex.quote(run)}"


def _open(found: Judgement, level: float) -> Iterator[Difference]:
    """Yield comparisons that the verdict waits for: the nearest rival, 0, controls, a method."""
    if found.leader is None:
        return
    candidates = [
        *[p for p in found.teacher_pairs if p.first == found.leader.teacher][:1],
        *([found.above_zero] if found.above_zero is not None else []),
        *found.controls[:1],
        *[p for p in found.method_pairs if p.first == found.leader.method][:1],
    ]
    for pair in candidates:
        if not pair.significant(level) and math.isfinite(pair.p_value):
            yield pair


def questions_needed(pair: Difference, num_questions: int) -> float:
    """Return how many questions would probably settle a comparison.

    If the difference is what it seems to be, this many questions show it with a chance of
    80 %: the standard error falls with the square root of their number. Rollouts per question
    would lower only the part of it that comes from rollouts.

    Args:
        pair: the comparison, with the interval that its family gives it.
        num_questions: how many it has now.
    """
    if not (math.isfinite(pair.se) and pair.se > 0 and abs(pair.value) > 0):
        return math.nan
    reach = (pair.high - pair.low) / 2 / pair.se + float(ndtri(POWER))
    return num_questions * (reach * pair.se / abs(pair.value)) ** 2
