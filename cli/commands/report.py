"""`gradalign report`: a self-contained HTML page of a run or of many, or a table or figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gradalign.errors import UsageError

from ..completion import complete_run
from ..help import add_command

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.report.report import Report

Format = Literal["html", "md", "csv", "latex", "png", "svg"]

HELP = """Write one HTML file that shows a run: verdict, charts, tables, and the responses.

It needs no network and no server. Several runs make one page, a leaderboard of students, tasks,
teachers, contexts and methods. With --format the result's table (md, csv, latex) or the main
figure (png, svg) is written instead; md and figures need `pip install 'gradalign[report]'`.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "report",
        _report,
        HELP,
        examples=(
            "gradalign report gradalign-demo --open",
            "gradalign report gradalign-demo --format md",
            "gradalign report gradalign-demo gradalign-demo-2 --output runs.html",
        ),
    )


def _report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders or URLs that `gradalign score` wrote.",
            autocompletion=complete_run,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="The file; default: RUN/report.html, gradalign-runs.html for several runs, "
            "RUN/pooled.png or .svg for a figure; a table is printed.",
        ),
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="What to write.")] = "html",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
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
    from gradalign.report.report import read_report

    if format != "html" and open_page:
        raise UsageError("--open opens a page.", f"Leave it out with --format {format}.")
    if (len(runs) > 1 or format != "html") and measured is not None:
        raise UsageError("--measured belongs to the page of one run.", "Leave it out.")
    if len(runs) > 1 and format != "html":
        raise UsageError(f"--format {format} is of one run.", "Name one run, or leave it out.")
    reports = [read_report(run) for run in runs]
    if format in ("md", "csv", "latex", "png", "svg"):
        _write_result(reports[0], format, output)
        return
    if len(reports) > 1:
        path = _write_runs(reports, output)
    else:
        path = _write_run(reports[0], output, max_spines, measured)
    typer.echo(path)
    if open_page:
        import webbrowser

        webbrowser.open(Path(path).resolve().as_uri())


def _write_run(report: Report, output: str | None, max_spines: int, measured: str | None) -> str:
    from gradalign.report.page import page_path, write_page

    path = output or page_path(report)
    shown = write_page(report, path, max_spines=max_spines, measured=_measured(report, measured))
    print(f"{shown} responses, {Path(path).stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return path


def _measured(report: Report, path: str | None) -> pd.DataFrame | None:
    from gradalign.report.measured import read_measured
    from gradalign.report.node_scores import arms_in

    return None if path is None else read_measured(path, arms_in(report.summary))


def _write_runs(reports: Sequence[Report], output: str | None) -> str:
    from gradalign.report.page import write_runs_page

    path = output or "gradalign-runs.html"
    write_runs_page(reports, path)
    return path


def _write_result(
    report: Report, format: Literal["md", "csv", "latex", "png", "svg"], output: str | None
) -> None:
    from gradalign.report.paper import table_text, write_figure, write_table

    report.check_finished()
    if format == "png" or format == "svg":
        name = f"pooled.{format}"
        path = output or (report.folder.path(name) if report.folder.local else name)
        write_figure(report, path, format)
        typer.echo(path)
    elif output is None:
        typer.echo(table_text(report, format), nl=False)
    else:
        write_table(report, output, format)
        typer.echo(output)
