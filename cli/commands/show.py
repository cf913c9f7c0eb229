"""`gradalign show`: what a run came to, or one question of it, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gradalign.errors import UsageError
from gradalign.report.terminal.tables import Column, make_table, open_console, print_table

from ..completion import complete_method_of_run, complete_teacher_of_run
from ..help import add_command
from ..options import RunArgument
from ..output import print_report

if TYPE_CHECKING:
    from gradalign.report.report import Report

HELP = """Show what a run came to: the verdict, the summary, and how to go on.

With --question, that question's responses with the alignment of every measured token. --position
adds what was tried there. --questions lists the questions.
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
    questions: Annotated[
        bool, typer.Option("--questions", help="List the run's questions.")
    ] = False,
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
    from gradalign.report.report import read_report

    narrower = {
        "--spine": spine,
        "--position": position,
        "--teacher": teacher,
        "--method": method,
    }
    given = [flag for flag, value in narrower.items() if value is not None]
    if question is None and given:
        raise UsageError(
            f"{given[0]} is about one question.", "Give --question ID; --questions lists them."
        )
    if question is not None and questions:
        raise UsageError("--question and --questions exclude each other.", "Give one of them.")
    report = read_report(run)
    if question is None and not questions:
        print_report(report, json_output=False)
        return
    if question is None:
        _list_questions(report)
        return
    from gradalign.report.terminal.question import show_question

    console = open_console()
    for lines in show_question(
        report, question, teacher=teacher, method=method, position=position, spine=spine
    ):
        console.print(lines)


def _list_questions(report: Report) -> None:
    """Print a row per question."""
    spines = report.table("spines", ["question_id", "correct"])
    rows = [
        (str(name), f"{int(part.eq(True).sum())} of {len(part)} correct")  # null: not verified
        for name, part in spines.groupby("question_id", sort=False, observed=True)["correct"]
    ]
    print_table(make_table([Column("question", whole=True), Column("responses", whole=True)], rows))
