"""Rehearsed gains for the terminal: a row per method, a column per number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradalign.errors import RunError
from gradalign.estimates import Arm
from gradalign.report.arms import marked, teacher_colours
from gradalign.report.format import interval
from gradalign.report.terminal.answer import WITHOUT_TEACHER
from gradalign.report.terminal.tables import Column, Row, Section, Table, make_table
from gradalign.report.verdict import role_of

if TYPE_CHECKING:
    from gradalign.rehearsal.curves import Point
    from gradalign.report.report import Report

LEGEND = "success gained after so many steps, by questions that did not train; 95% intervals."


def rehearsal_table(report: Report) -> Table:
    """Return a row per method, in a section per teacher, the best teacher first.

    Raises:
        RunError: no rehearsal was asked for.
    """
    curves = report.curves
    if not curves:
        raise RunError(
            f"{report.path} has no rehearsal.", f"`gradalign rehearse {report.path}` adds one."
        )
    steps = sorted({point.steps for points in curves.values() for point in points})

    def cells(arm: Arm) -> tuple[str, ...]:
        at = {point.steps: point for point in curves[arm]}
        return (arm.method, *(_cell(at.get(number)) for number in steps))

    colours = teacher_colours(report.summary["teacher"])
    rows: list[Row] = []
    led = sorted((arm for arm in curves if arm.teacher), key=lambda arm: -_order(curves[arm]))
    for teacher in dict.fromkeys(arm.teacher for arm in led):
        own = [arm for arm in led if arm.teacher == teacher]
        rows += [Section(f"{teacher}{marked(teacher)}", colours[teacher]), *map(cells, own)]
    for role, title in WITHOUT_TEACHER.items():
        own = [arm for arm in curves if not arm.teacher and role_of(arm) == role]
        if own:
            rows += [*([None] if rows else []), Section(title), *map(cells, own)]
    columns = [
        Column("method", whole=True),
        *(
            Column(
                f"{number} step{'s' * (number > 1)}",
                right=True,
                whole=True,
                bracket=True,
                priority=0 if number == steps[-1] else 1 + steps[::-1].index(number),
            )
            for number in steps
        ),
    ]
    return make_table(columns, rows, title="Rehearsed gain of success")


def _cell(point: Point | None) -> str:
    if point is None:
        return "-"
    return interval(*point.gain.span) if point.trusted else "trust ends"


def _order(points: list[Point]) -> float:
    """Return the gain at the last point that is trusted, minus infinity for none."""
    known = [point.gain.value for point in points if point.trusted]
    return known[-1] if known else -math.inf


def rehearsal_notes(report: Report) -> Iterator[str]:
    """Say how long a step was, and where and why trust ends."""
    config, curves = report.config, report.curves
    lengths = report.table("rehearsals", ["length"])["length"]
    length = f"{lengths.iloc[0]:.3g}" if len(lengths) else "unknown"
    trials = report.table("rehearsal_trials", ["divergence", "length", "effective"])
    batch = f"{config.weights_batch} questions x "
    batch += f"{config.rehearse_responses or config.num_rollouts} responses"
    learnt = "learning rate" if "lr=" in config.rehearse_step else "length"
    chosen = (
        "; `auto` chose it by a trial" if len(trials) and "auto" in config.rehearse_step else ""
    )
    yield f"A step: {config.rehearse_step}, {learnt} {length}, on {batch}{chosen}."
    for arm, points in curves.items():
        lost = next((point for point in points if not point.trusted), None)
        if lost is not None:
            yield f"{arm}: trust ends before {lost.steps} steps: {lost.why}."
