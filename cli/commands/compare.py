"""`gradalign compare`: two runs, arm by arm."""

from __future__ import annotations

from typing import Annotated

import typer

from gradalign.report.terminal.tables import Column, make_table, print_table, sectioned

from ..completion import complete_run
from ..help import add_command
from ..output import json_flag, print_json

HELP = """Compare two runs, teacher by teacher and method by method; second minus first.

Paired on the same positions of the same responses where the runs share them, else on the same
questions, else as independent runs. Where both runs have --alignment weights in one space, their
gains per step follow.
"""

NO_TEACHER = "no teacher"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "compare",
        _compare,
        HELP,
        examples=(
            "gradalign demo --seed 1 --output-dir gradalign-demo-2",
            "gradalign compare gradalign-demo gradalign-demo-2",
        ),
    )


def _compare(
    run_a: Annotated[
        str,
        typer.Argument(
            metavar="RUN_A", help="Folder or URL of the first run.", autocompletion=complete_run
        ),
    ],
    run_b: Annotated[
        str,
        typer.Argument(
            metavar="RUN_B", help="Folder or URL of the second run.", autocompletion=complete_run
        ),
    ],
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence.")] = 0.95,
    json_output: Annotated[bool, json_flag("the differences")] = False,
) -> None:
    from gradalign.report.compare import compare_runs
    from gradalign.report.format import interval, number, p_value
    from gradalign.report.report import read_report

    differences = compare_runs(read_report(run_a), read_report(run_b), level=level)
    if json_output:
        print_json([item.to_dict() for item in differences])
        return
    titles = {
        "pooled": "Pooled alignment",
        "weights_gain_one": "Gain per step of the weights, on one question",
        "weights_gain": "The same on --weights-batch questions",
    }
    for name, title in titles.items():
        rows = (
            (
                item.teacher or NO_TEACHER,
                item.method,
                interval(*item.difference.span),
                p_value(item.difference.adjusted_p, "-"),
                number(item.first),
                number(item.second),
                {"nodes": f"{item.num_first:,} nodes", "questions": "questions", "none": "nothing"}[
                    item.pairing
                ],
            )
            for item in differences
            if item.number == name
        )
        ordered = sorted(rows, key=lambda row: row[0] == NO_TEACHER)
        if not ordered:
            continue
        columns = [
            Column("method", whole=True),
            Column("difference", right=True, whole=True, bracket=True),
            Column("p (Holm)", right=True, whole=True, priority=1),
            *(Column(said, right=True, whole=True, priority=2) for said in ("first", "second")),
            Column("paired on", whole=True, priority=3, once=True),
        ]
        table = make_table(
            columns,
            sectioned(ordered),
            title=f"{title}, second minus first ({level:.0%} intervals)",
        )
        print_table(table)
