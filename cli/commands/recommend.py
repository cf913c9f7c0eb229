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

from ..help import add_command
from ..options import RunArgument
from ..output import json_flag, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradalign.report.verdict import Ranked, Recommendation

COLUMNS = {
    "rehearsed": "rehearsed gain",
    "weights_gain_one": "gain per step",
    "gain": "gain per step",
}
"""Titles of columns that have other names in the summary."""

HELP = """Say which teacher, context and method to distill with, on which tokens, and how surely.

Arms are ranked by the best predictor that the run holds. Differences are paired by question, and
p-values allow for all comparisons of one kind. Where no candidate is surely the best, it says so,
and what it would take to know.
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


def _against(item: Ranked, *, leads: bool) -> str:
    """Return an arm minus the best of its teacher, with the p-value, where that was tested."""
    from gradalign.report.format import number, p_value

    pair = item.against_leader
    if pair is None:
        return "leader" if leads else "-"
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
            leads = role == "candidate" and item is own[0] and item.value.known
            yield (
                item.name,
                interval(*item.value.span),
                *([] if result.basis == "pooled" else [interval(*item.pooled.span)]),
                _against(item, leads=leads),
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
                Column(
                    COLUMNS.get(result.basis, result.basis), right=True, whole=True, bracket=True
                ),
                *(
                    []
                    if result.basis == "pooled"
                    else [Column("pooled", right=True, whole=True, bracket=True, priority=2)]
                ),
                Column("minus the leader", right=True, whole=True, bracket=True, priority=1),
            ],
            _ranking(result),
            title=f"Ranking by {COLUMNS.get(result.basis, result.basis)}",
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
                Column("p", right=True, whole=True, priority=1),
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
