"""`gradalign demo`: the bundled pair, end to end."""

from __future__ import annotations

from typing import Annotated

import typer

from ..help import add_command
from ..options import build_config
from ..output import DisplayOption, JsonOption, print_report

SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong", "demo:weak", "self+answer"],
    "task": "demo:addition",
    "limit": 40,
}
"""The README's first command, spelled out there flag by flag."""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "demo",
        _demo,
        HELP,
        examples=("gradalign demo", "gradalign demo --limit 12 --output-dir runs/small"),
    )


HELP = """Score the bundled teachers for the bundled student, in a minute or two.

Shorthand for: gradalign score --student demo:student --teacher demo:strong --teacher demo:weak
--teacher self+answer --task demo:addition --limit 40 --output-dir gradalign-demo
"""


def _demo(
    output_dir: Annotated[str, typer.Option(help="Folder of the report.")] = "gradalign-demo",
    engine: Annotated[str, typer.Option(help="auto, transformers or vllm.")] = "auto",
    limit: Annotated[int, typer.Option(help="Number of questions.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    display: DisplayOption = "auto",
    json_output: JsonOption = False,
) -> None:
    from gradalign.progress import reporting

    config = build_config(
        {**SETTINGS, "output_dir": output_dir, "engine": engine, "limit": limit, "seed": seed}, None
    )
    with reporting(display) as reporter:
        from gradalign.pipeline import score_config

        report = score_config(config, reporter=reporter)
    print_report(report, json_output=json_output)
