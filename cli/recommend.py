"""`gradalign recommend`: the verdict on a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gradalign.report.terminal.tables import (
    Column,
    Row,
    Section,
    make_table,
    open_console,
    print_points,
)

from .help import add_command
from .options import RunArgument
from .output import json_flag, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradalign.report.verdict import Ranked, Recommendation

HELP = """Say which teacher, context and method to distill with, on which tokens, and how surely.

Differences are paired on the same nodes; p-values carry Holm's correction. Where no candidate is
surely the best, it says so, and what it would take to know.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "recommend",
        _recommend,
        HELP,
        examples=(
            "gradalign recommend gradalign-demo",
            "gradalign recommend gradalign-demo --json",
        ),
    )


def _recommend(
    run: RunArgument,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence.")] = 0.95,
    json_output: Annotated[bool, json_flag("everything")] = False,
) -> None:
    from gradalign.report.report import read_report

    result = read_report(run).recommend(level=level)
    if json_output:
        print_json(result.to_dict())
        return
    _print(result)


def _against(item: Ranked) -> str:
    """Return an arm minus the best candidate, with the p-value."""
    from gradalign.report.format import number, p_value

    pair = item.against_leader
    if pair is None:
        return "best" if item.pooled.known else "-"
    known = pair.adjusted_p == pair.adjusted_p
    return number(pair.value) + (f" (p {p_value(pair.adjusted_p)})" if known else "")


ROLES = {"candidate": "candidates", "control": "controls", "reference": "for reference"}
"""Sections of the ranking."""


def _ranking(result: Recommendation) -> Iterator[Row]:
    """Yield the candidates, and below a line each what is no candidate."""
    from gradalign.report.format import interval

    first = True
    for role, title in ROLES.items():
        own = [item for item in result.ranking if item.role == role]
        if not own:
            continue
        if not first:
            yield None
        first = False
        yield Section(title)
        for item in own:
            yield (
                item.name,
                interval(*item.pooled.span),
                _against(item),
            )


def _print(result: Recommendation) -> None:
    from gradalign.report.format import interval, p_value, visible

    console = open_console()
    console.print(visible(result.headline), style="bold")
    print_points(console, map(visible, result.remarks))
    console.print()
    console.print(
        make_table(
            [
                Column("method@teacher", whole=True, name=True),
                Column("pooled", right=True, whole=True, bracket=True),
                Column("minus the best", right=True, whole=True, bracket=True, priority=1),
            ],
            _ranking(result),
            title="Ranking by pooled alignment (p: Holm)",
            names=[item.teacher for item in result.ranking],
        )
    )
    if not result.teacher_pairs:
        return
    console.print()
    console.print(
        make_table(
            [
                Column("teacher", whole=True, name=True),
                Column("minus", whole=True, name=True),
                Column("difference", right=True, whole=True, bracket=True),
                Column("p (Holm)", right=True, whole=True, priority=1),
            ],
            (
                (
                    pair.first,
                    pair.second,
                    interval(*pair.span),
                    p_value(pair.adjusted_p, "-"),
                )
                for pair in result.teacher_pairs
            ),
            title="Teachers, over the same methods and nodes",
            names=[place.teacher for place in result.teachers],
        )
    )
