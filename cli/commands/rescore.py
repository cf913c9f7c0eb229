"""`gradalign rescore`: a new method, teacher or verifier on stored rollouts."""

from __future__ import annotations

from typing import Annotated

import typer

from ..completion import complete_alignment, complete_method, complete_teacher
from ..help import add_command
from ..options import RunArgument
from ..output import DisplayOption, JsonOption, print_report

HELP = """Add methods, teachers or levels of alignment to a finished run, without sampling again.

A method costs arithmetic, and passes of the models only where it looks at more than the run stored.
A teacher reads the stored responses. Another verifier judges the stored responses and rollouts; no
model is opened, and the former verdicts stay in the table verdicts. The run is changed in place.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "rescore",
        _rescore,
        HELP,
        examples=(
            "gradalign rescore gradalign-demo --method random",
            "gradalign rescore gradalign-demo --teacher demo:strong+answer",
            "gradalign rescore runs/first --verifier math",
        ),
    )


def _rescore(
    run: RunArgument,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="A method to add, repeatable.", autocompletion=complete_method
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="A teacher to add, or a difference delta:A,B of two; repeatable.",
            autocompletion=complete_teacher,
        ),
    ] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            "--alignment",
            help="`weights`: alignment in the space of the weights.",
            autocompletion=complete_alignment,
        ),
    ] = None,
    weights_space: Annotated[
        str | None,
        typer.Option(help="Of --alignment weights: all, layers=PATTERN, or lora:rank=R."),
    ] = None,
    weights_adamw: Annotated[
        str | None,
        typer.Option(help="Of --alignment weights: first, or the file of an optimizer."),
    ] = None,
    weights_quarters: Annotated[
        bool | None,
        typer.Option(
            "--weights-quarters/--no-weights-quarters",
            help="Of --alignment weights: by quarters of the responses too.",
        ),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="A verifier to judge the stored responses and rollouts with."),
    ] = None,
    display: DisplayOption = "auto",
    json_output: JsonOption = False,
) -> None:
    from gradalign.progress import reporting

    with reporting(display) as reporter:
        from gradalign.rescoring import rescore_run

        report = rescore_run(
            run,
            methods=method or [],
            teachers=teacher or [],
            alignment=alignment or [],
            weights_space=weights_space,
            weights_adamw=weights_adamw,
            weights_quarters=weights_quarters,
            verifier=verifier,
            reporter=reporter,
        )
    print_report(report, json_output=json_output)
