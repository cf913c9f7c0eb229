"""`gradalign compare`: two runs, arm by arm."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from .output import wide_console

HELP = """Compare two runs, teacher by teacher and method by method; second minus first.

Paired on the same positions of the same responses where the runs share them, else on the same
questions, else as independent runs.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("compare", help=HELP)(_compare)


def _compare(
    run_a: Annotated[str, typer.Argument(help="Folder or URL of the first run.")],
    run_b: Annotated[str, typer.Argument(help="Folder or URL of the second run.")],
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence.")] = 0.95,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the differences as JSON on stdout.")
    ] = False,
) -> None:
    from gradalign.report.compare import compare_runs
    from gradalign.report.format import interval, number
    from gradalign.report.report import read_report

    rows = compare_runs(read_report(run_a), read_report(run_b), level=level)
    if json_output:
        json.dump([row.to_dict() for row in rows], sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    from rich.table import Table

    table = Table(title=f"Pooled alignment, second minus first ({level:.0%} intervals)")
    table.title_justify = "left"
    for title in ("teacher", "method", "first", "second", "difference", "p (Holm)", "paired on"):
        table.add_column(title, justify="left" if title in {"teacher", "method"} else "right")
    for row in rows:
        table.add_row(
            row.teacher or "(none)",
            row.method,
            number(row.first),
            number(row.second),
            interval(row.difference, row.low, row.high),
            "-" if row.adjusted_p != row.adjusted_p else f"{row.adjusted_p:.2g}",
            {"nodes": f"{row.num_first:,} nodes", "questions": "questions", "none": "nothing"}[
                row.pairing
            ],
        )
    wide_console(table, markup=False).print(table, highlight=False)
