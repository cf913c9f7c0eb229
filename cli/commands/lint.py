"""`gradalign lint`: what a trainer's own file really does."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from gradalign.errors import UsageError
from gradalign.report.format import visible
from gradalign.report.terminal.tables import open_console, print_points

from ..completion import complete_trainer
from ..help import add_command
from ..output import print_json, print_records

HELP = """Say what a trainer's file really does: its direction, against the one its names promise.

No model is needed: losses are evaluated on made-up nodes. A file may be YAML, JSON, TOML or a shell
script, - is standard input, and KEY=VALUE goes on top of each. Without --fail-on the status is 0.
"""

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "question": "magenta"}
Format = Literal["text", "json", "sarif", "github"]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "lint",
        _lint,
        HELP,
        examples=(
            "gradalign lint run_opd.sh",
            "gradalign lint config.yaml --trainer trl --fail-on warning",
            "gradalign lint distillation.enabled=true \\\n"
            "    distillation.distillation_loss.loss_mode=k3",
            "gradalign lint --list",
        ),
    )


def _lint(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG...", help="Trainers' files, and KEY=VALUE on top of them."),
    ] = None,
    trainer: Annotated[
        str,
        typer.Option(
            "--trainer",
            metavar="NAME",
            help="Whose file it is, where it cannot be told.",
            autocompletion=complete_trainer,
        ),
    ] = "",
    version: Annotated[
        str,
        typer.Option("--trainer-version", metavar="PART", help="Take an older version's defaults."),
    ] = "",
    fail_on: Annotated[
        Literal["error", "warning"] | None,
        typer.Option("--fail-on", help="Leave with status 3 on findings as bad as that."),
    ] = None,
    output: Annotated[
        Format,
        typer.Option("--format", help="How findings are printed."),
    ] = "text",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON on stdout: --format json.")
    ] = False,
    list_rules: Annotated[
        bool, typer.Option("--list", help="List every rule with where it was met.")
    ] = False,
) -> None:
    from gradalign.lint import RULES, github, is_file, lint, sarif

    if list_rules:
        print_records(
            [
                {
                    "name": rule.name,
                    "levels": ", ".join(rule.levels),
                    "what": rule.title,
                    "source": rule.source,
                }
                for rule in RULES
            ],
            json_output=json_output or output == "json",
        )
        return
    words = files or []
    overrides = [word for word in words if not is_file(word)]
    paths = [word for word in words if is_file(word)]
    if not words:
        raise UsageError("nothing to lint.", "Give a trainer's file.")
    lints = [lint(path, overrides, trainer=trainer, version=version) for path in paths or [""]]
    if json_output or output == "json":
        print_json([one.to_dict() for one in lints])
    elif output == "sarif":
        from importlib.metadata import version as installed

        print_json(sarif(lints, installed("gradalign")))
    elif output == "github":
        for line in github(lints):
            typer.echo(visible(line))
    else:
        for number, one in enumerate(lints):
            if number:
                typer.echo()
            _print(one)
    if fail_on and any(one.fails(fail_on) for one in lints):
        raise typer.Exit(3)


def _print(one: Any) -> None:
    """Print what a file applies, and then what is to be said of it."""
    from rich.padding import Padding
    from rich.text import Text

    console = open_console()
    against = one.comparison()
    if one.subject is None or against is None:
        console.print(Text(visible(f"{one.source.shown}: no distillation ({one.reason}).")))
        return
    subject = one.subject
    console.print(
        Text(
            visible(f"{one.source.shown}: {subject.trainer.title} ({subject.version.name})"),
            style="bold",
        )
    )
    lines = [
        f"applies {subject.whole.spec}",
        f"on the student's logits: {subject.teacher.formula}",
    ]
    if subject.promise != subject.teacher:
        lines.append(
            f"promises {subject.promise.spec}: pooled cosine to it {_number(against.cosine)}, "
            f"{against.turned:.0%} of made-up nodes turned round, {against.zero:.0%} without a "
            "direction"
        )
    from gradalign.lint.evidence import noise

    loud = noise(subject.teacher)
    if loud > 0.0:
        shown = "no mean" if loud == float("inf") else f"{loud:.1f} times its squared mean"
        lines.append(f"variance of the single-sample form: {shown}")
    filled = ", ".join(f"{key}={_value(value)}" for key, value in subject.filled_in.items())
    if filled:
        lines.append(f"not in the file, by default: {filled}")
    if subject.note:
        lines.append(subject.note)
    print_points(console, map(visible, lines))
    for hit in one.hits:
        console.print(
            Text.assemble(
                (hit.level, COLOURS[hit.level]),
                f" {hit.rule.name} ",
                (f"(line {hit.line})", "dim"),
            )
        )
        found = hit.finding
        parts = (found.text, found.evidence, f"Met in: {hit.rule.source}.", found.fix)
        for part in filter(None, parts):
            text = Text(visible(part), overflow="fold")
            console.print(Padding(text, (0, 0, 0, 2), expand=False))
    if not one.findings:
        console.print("nothing found")


def _number(value: float) -> str:
    return f"{value:+.2f}" if value == value else "none, as one of them is zero"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
