"""`gradalign show`: one question of a run in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .completion import complete_method_of_run, complete_teacher_of_run
from .help import add_command
from .options import RunArgument

HELP = """Show a question's responses with every measured token coloured by alignment.

Without --question the run's questions are listed. --position adds what was tried there.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "show",
        _show,
        HELP,
        examples=(
            "gradalign show gradalign-demo",
            "gradalign show gradalign-demo --question 65+68 --position 2",
        ),
    )


def _show(
    run: RunArgument,
    question: Annotated[str | None, typer.Option(help="Id of a question.")] = None,
    spine: Annotated[int | None, typer.Option(help="Only this response, 0 the first.")] = None,
    position: Annotated[
        int | None, typer.Option(help="Also list the candidates at this position.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Whose alignment is shown; default: the best.",
            autocompletion=complete_teacher_of_run,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Of which method; default: the best.", autocompletion=complete_method_of_run
        ),
    ] = None,
) -> None:
    from rich.console import Console

    from gradalign.report.format import visible
    from gradalign.report.report import read_report
    from gradalign.report.terminal import show_question

    report = read_report(run)
    console = Console(width=None if sys.stdout.isatty() else 132, markup=False, highlight=False)
    if question is None:
        spines = report.table("spines", ["question_id", "correct"])
        for name, part in spines.groupby("question_id", sort=False, observed=True)["correct"]:
            right = int(part.eq(True).sum())  # null where the verifier failed
            console.print(f"{visible(str(name))}  {right} of {len(part)} correct")
        return
    for lines in show_question(
        report, question, teacher=teacher, method=method, position=position, spine=spine
    ):
        console.print(lines)
