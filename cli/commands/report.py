"""`gradalign report`: one self-contained HTML page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..help import add_command
from ..options import RunArgument

HELP = """Write one HTML file that shows a run: verdict, charts, tables, and the responses.

It needs no network and no server. Needs plotly: `pip install 'gradalign[report]'`.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "report",
        _report,
        HELP,
        examples=(
            "gradalign report gradalign-demo",
            "gradalign report gradalign-demo --output page.html --max-spines 50",
        ),
    )


def _report(
    run: RunArgument,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The file; default: RUN/report.html.")
    ] = None,
    max_spines: Annotated[
        int, typer.Option(min=1, help="Show at most this many responses (8 MB in any case).")
    ] = 200,
    measured: Annotated[
        str | None,
        typer.Option(
            help="CSV file of real trainings (teacher, method, steps, gain), drawn beside "
            "rehearsed ones."
        ),
    ] = None,
) -> None:
    from gradalign.report.page import page_path, write_page
    from gradalign.report.report import read_report

    report = read_report(run)
    output = output or page_path(report)
    table = None
    if measured is not None:
        from gradalign.report.measured import read_measured
        from gradalign.report.node_scores import arms_in

        table = read_measured(measured, arms_in(report.summary))
    shown = write_page(report, output, max_spines=max_spines, measured=table)
    size = Path(output).stat().st_size / 1e6
    print(f"{shown} responses, {size:.1f} MB", file=sys.stderr)
    typer.echo(output)
