"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gradalign.report.terminal.tables import Column as Column
from gradalign.report.terminal.tables import make_table as make_table
from gradalign.report.terminal.tables import open_console
from gradalign.report.terminal.tables import print_table as print_table

if TYPE_CHECKING:
    from gradalign.config import ScoreConfig
    from gradalign.report.report import Report

DisplayOption = Annotated[
    Literal["auto", "rich", "plain", "none"],
    typer.Option(
        "--display",
        help="Progress on stderr: bars, lines, or nothing.",
    ),
]


def json_flag(what: str, *, alone: bool = False) -> Any:
    """Declare `--json`.

    Args:
        what: is printed as JSON.
        alone: say that nothing else comes on stdout, where the command has much to say.
    """
    rest = ", nothing else there" if alone else ""
    return typer.Option("--json", help=f"Print {what} as JSON on stdout{rest}.")


JsonOption = Annotated[bool, json_flag("the summary", alone=True)]


def print_json(value: Any, *, escape: bool = False) -> None:
    """Print a value as JSON, indented.

    Args:
        value: plain values, or a DataFrame, which becomes a record per row.
        escape: write every character outside of ASCII as an escape sequence.
    """
    if hasattr(value, "to_json"):
        value = json.loads(value.to_json(orient="records"))
    json.dump(value, sys.stdout, indent=2, ensure_ascii=escape)
    sys.stdout.write("\n")


def print_report(report: Report, *, json_output: bool) -> None:
    """Print what a run came to: the verdict, the summary, and the commands to go on with."""
    if json_output:
        print_json(report.summary, escape=True)
        return
    from gradalign.report.terminal.answer import print_answer

    print_answer(report, open_console())


def print_previews(config: ScoreConfig, count: int, *, json_output: bool) -> None:
    """Print the exact prompts of a run."""
    from dataclasses import asdict

    from gradalign.stages.preparation.preview import preview_prompts

    views = preview_prompts(config, count)
    if json_output:
        print_json([asdict(view) for view in views])
        return
    for view in views:
        note = f" ({view.note})" if view.note else ""
        print(f"--- {view.question_id}, {view.reader}, {len(view.token_ids)} tokens{note}")
        print(view.text)
        print(" ".join(map(str, view.token_ids)))


def print_records(records: list[dict[str, Any]], *, json_output: bool) -> None:
    """Print a list of things as a table, or as JSON."""
    if json_output:
        print_json(records)
        return
    table = make_table(
        [Column(title, whole=title == "name", least=30) for title in (records or [{}])[0]],
        ([str(value) for value in record.values()] for record in records),
    )
    print_table(table, width=132)
