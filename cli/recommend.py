"""`gradalign recommend`: the verdict on a run."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .output import wide_console

if TYPE_CHECKING:
    from gradalign.report.verdict import Ranked, Recommendation

HELP = """Say which teacher, context and method to distill with, on which tokens, and how surely.

Differences are paired on the same nodes; p-values carry Holm's correction. Where no candidate is
surely the best, it says so, and what it would take to know.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("recommend", help=HELP)(_recommend)


def _recommend(
    run: Annotated[str, typer.Argument(help="Folder or URL that `gradalign score` wrote.")],
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence.")] = 0.95,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON on stdout.")
    ] = False,
) -> None:
    from gradalign.report.report import read_report

    result = read_report(run).recommend(level=level)
    if json_output:
        json.dump(result.to_dict(), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    _print(result)


def _place(item: Ranked) -> str:
    """Return what stands beside an arm that is compared with none: the best one, or none."""
    return "best candidate" if item.pooled == item.pooled else "-"


def _print(result: Recommendation) -> None:
    from rich.table import Table

    from gradalign.report.format import interval, number, visible

    table = Table(title="Ranking by pooled alignment", title_justify="left")
    for title, side in (
        ("#", "right"),
        ("teacher", "left"),
        ("method", "left"),
        ("role", "left"),
        ("pooled", "right"),
        ("minus the best", "right"),
        ("p (Holm)", "right"),
    ):
        table.add_column(title, justify=side, no_wrap=title != "teacher")  # type: ignore[arg-type]
    for item in result.ranking:
        pair = item.against_leader
        table.add_row(
            str(item.rank),
            item.teacher or "(none)",
            item.method,
            item.role,
            interval(item.pooled, item.low, item.high),
            _place(item) if pair is None else number(pair.difference),
            "" if pair is None or pair.adjusted_p != pair.adjusted_p else f"{pair.adjusted_p:.2g}",
        )
    pairs = Table(title="Teachers, over the same methods and nodes", title_justify="left")
    for title in ("teacher", "minus", "difference", "p (Holm)"):
        pairs.add_column(title)
    for pair in result.teacher_pairs:
        pairs.add_row(
            pair.first,
            pair.second,
            interval(pair.difference, pair.low, pair.high),
            f"{pair.adjusted_p:.2g}",
        )
    console = wide_console(table, pairs, highlight=False, markup=False)
    console.print(visible(result.headline), style="bold")
    for line in result.remarks:
        console.print(f"- {visible(line)}")
    console.print(table)
    if result.teacher_pairs:
        console.print(pairs)
