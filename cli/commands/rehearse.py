"""`gradalign rehearse`: predicted success over the steps of trainings that are not run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..help import add_command
from ..options import RunArgument
from ..output import DisplayOption, json_flag, print_json

HELP = """Predict success over the steps of every training, without training.

The student is moved as each teacher and method would move it, by one half of the questions, and
read on the other. Stored responses and rollouts say what the moved student gains; nothing is
sampled. The curve ends where the stored responses no longer stand for new ones. The run is changed
in place, and is taken up where it was.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "rehearse",
        _rehearse,
        HELP,
        examples=(
            "gradalign rehearse gradalign-demo",
            "gradalign rehearse gradalign-demo --steps 12 --steps 48 --step kl=0.0005",
            "gradalign rehearse runs/first --step adamw:lr=1e-6 --responses 8",
        ),
    )


def _rehearse(
    run: RunArgument,
    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of steps to predict success after, repeatable."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="One step: kl=X, length=X, lr=X or auto; adamw: before it for steps of AdamW."
        ),
    ] = None,
    responses: Annotated[
        int | None, typer.Option(min=1, help="Responses per question of a step.")
    ] = None,
    self_teachers: Annotated[
        Literal["fixed", "moving"] | None,
        typer.Option(
            "--self",
            help="Whether teachers of the student's own checkpoint stay it, or move with it.",
        ),
    ] = None,
    display: DisplayOption = "auto",
    json_output: Annotated[bool, json_flag("every point of the curves", alone=True)] = False,
) -> None:
    from gradalign.api import rehearse

    report = rehearse(
        run,
        steps=steps or (),
        step=step,
        responses=responses,
        self_teachers=self_teachers,
        display=display,
    )
    if json_output:
        print_json(report.rehearsal, escape=True)
        return
    from gradalign.report.format import visible
    from gradalign.report.terminal.rehearsal import LEGEND, rehearsal_notes, rehearsal_table
    from gradalign.report.terminal.tables import open_console, print_points

    console = open_console()
    console.print(rehearsal_table(report))
    console.print(LEGEND, style="dim")
    print_points(console, map(visible, rehearsal_notes(report)))
