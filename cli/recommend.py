"""`gradalign recommend`: the verdict on a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .help import add_command
from .options import RunArgument
from .output import Column, json_flag, make_table, print_json, wide_console

if TYPE_CHECKING:
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


def _place(item: Ranked) -> str:
    """Return what stands beside an arm that is compared with none: the best one, or none."""
    return "best candidate" if item.pooled.known else "-"


def _print(result: Recommendation) -> None:
    from gradalign.report.format import interval, number, p_value, visible

    ranking = (
        (
            str(item.rank),
            item.teacher or "(none)",
            item.method,
            item.role,
            interval(*item.pooled.span),
            _place(item) if pair is None else number(pair.value),
            "" if pair is None else p_value(pair.adjusted_p),
        )
        for item in result.ranking
        for pair in [item.against_leader]
    )
    table = make_table(
        [
            Column("#", right=True, whole=True),
            Column("teacher"),
            Column("method", whole=True),
            Column("role", whole=True),
            *(
                Column(title, right=True, whole=True)
                for title in ("pooled", "minus the best", "p (Holm)")
            ),
        ],
        ranking,
        title="Ranking by pooled alignment",
    )
    pairs = make_table(
        map(Column, ("teacher", "minus", "difference", "p (Holm)")),
        (
            (
                pair.first,
                pair.second,
                interval(*pair.span),
                f"{pair.adjusted_p:.2g}",
            )
            for pair in result.teacher_pairs
        ),
        title="Teachers, over the same methods and nodes",
    )
    console = wide_console(table, pairs)
    console.print(visible(result.headline), style="bold")
    for line in result.remarks:
        console.print(f"- {visible(line)}")
    console.print(table)
    if result.teacher_pairs:
        console.print(pairs)
