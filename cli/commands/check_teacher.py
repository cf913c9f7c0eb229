"""`gradalign check-teacher`: whether a teacher says what it is believed to say."""

from __future__ import annotations

from typing import Annotated

import typer

from gradalign.report.terminal.tables import open_console

from ..completion import complete_teacher
from ..help import add_command
from ..output import json_flag, print_json

HELP = """Look at a teacher in under a minute, before a run: vocabulary, templates, ends, servers.

Some texts are read with student and teacher, and through each server twice. Log-probabilities that
lie one position off, another checkpoint, replicas that differ and another precision are found.
Status 3 if there is a fault.
"""

COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "check-teacher",
        _check_teacher,
        HELP,
        examples=(
            "gradalign check-teacher --student demo:student --teacher demo:strong",
            "gradalign check-teacher --student Qwen/Qwen3-1.7B --teacher Qwen/Qwen3-8B \\\n"
            "    --base-url http://node1:8000 --base-url http://node2:8000",
        ),
    )


def _check_teacher(
    student: Annotated[str, typer.Option(help="Model id, folder, or demo:NAME.")],
    teacher: Annotated[
        str,
        typer.Option(help="The teacher's checkpoint.", autocompletion=complete_teacher),
    ],
    base_url: Annotated[
        list[str] | None,
        typer.Option(help="A vLLM server that has the teacher, repeatable; each is read."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="A text to read, repeatable; some of our own by default."),
    ] = None,
    top_k: Annotated[
        int, typer.Option(min=1, help="Most probable tokens that a server is asked for.")
    ] = 64,
    local: Annotated[
        bool,
        typer.Option(help="Read the checkpoint here too, to hold servers against it."),
    ] = True,
    revision: Annotated[str | None, typer.Option(help="Of the student's hub id.")] = None,
    teacher_revision: Annotated[str | None, typer.Option(help="Of the teacher's.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the models' own code.")] = False,
    device: Annotated[str, typer.Option(help="Of the forward passes.")] = "auto",
    json_output: Annotated[bool, json_flag("every finding")] = False,
) -> None:
    from rich.table import Table
    from rich.text import Text

    from gradalign.checkup import TEXTS, check_teacher
    from gradalign.report.format import visible

    found = check_teacher(
        student=student,
        teacher=teacher,
        base_urls=base_url or (),
        texts=text or TEXTS,
        top_k=top_k,
        local=local,
        revision=revision,
        teacher_revision=teacher_revision,
        trust_remote_code=trust_remote_code,
        device=device,
    )
    if json_output:
        print_json(found.to_dict())
    else:
        console = open_console()
        rows = Table.grid(padding=(0, 2))
        for item in found.findings:
            rows.add_row(
                Text(item.level, style=COLOURS[item.level]),
                Text(visible(f"{item.name}: {item.text}"), overflow="fold"),
            )
        console.print(rows)
    if not found.sound:
        raise typer.Exit(3)
