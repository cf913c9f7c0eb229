"""`gradalign diagnose`: why a run's teachers point where they do."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from gradalign.diagnostics import NAMES
from gradalign.report.terminal.tables import (
    Column,
    make_table,
    open_console,
    print_points,
    print_table,
    sectioned,
)

from ..completion import complete_diagnostic
from ..help import add_command
from ..options import RunArgument
from ..output import DisplayOption, json_flag, print_json

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {
    "topk": {"alignment", "cosine_to_full"},
    "gram": {
        "cosine",
        "routed",
        "routing_gain",
        "routed_share",
        "best_share",
        "best_alignment",
        "mixture_gain",
    },
    "horizon": {"alignment", "relative_bias", "noise_ratio", "negative_share", "log_prob_gap"},
}
"""The diagnostics to print where a mechanism has too many for a screen."""

HELP = """Measure why a run's teachers point where they do, and say what to do about it.

What to do comes first, the gravest on top; --full prints the numbers instead.

Computes the diagnostics that the run does not hold yet, from what is stored; what is there is not
done again. overlap, topk, contexts, gram, predictors and rivals cost arithmetic only. horizon
scores the stored continuations once with the student and every teacher, unless a method of the run
did. prefix is the only one that samples: per spine 2 continuations from each of 3 depths by the
student, and 2 from scratch and from each depth by every teacher, so 6 + 8 x teachers per spine,
each half a response long on average. With --only, only these are computed and shown.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    add_command(
        app,
        "diagnose",
        _diagnose,
        HELP,
        examples=(
            "gradalign diagnose gradalign-demo --only topk",
            "gradalign diagnose gradalign-demo --only overlap --only horizon --json",
        ),
    )


def _diagnose(
    run: RunArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            autocompletion=complete_diagnostic,
            help=f"One of {', '.join(NAMES)}; repeatable. Default: all.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print every figure, and all that is said of it.")
    ] = False,
    display: DisplayOption = "auto",
    json_output: Annotated[bool, json_flag("the diagnostics' summary")] = False,
) -> None:
    from gradalign.progress import reporting

    with reporting(display) as reporter:
        from gradalign.pipeline import diagnose_run

        report = diagnose_run(run, only or (), reporter=reporter)
    summary = report.table("diagnostics_summary")
    if only and "all" not in only:
        summary = summary[summary["mechanism"].astype(str).isin(only)]
    if json_output:
        print_json(summary, escape=True)
        return
    if full:
        print_diagnostics(summary)
    else:
        print_findings(summary, run)


def print_findings(summary: pd.DataFrame, run: str) -> None:
    """Print what to do, the gravest first, and how to see the numbers."""
    from gradalign.report.format import visible
    from gradalign.report.terminal.findings import by_consequence, findings, whom

    console = open_console()
    found = findings(summary)
    teachers = len(set(summary["teacher"].astype(str)) - {""})
    for title, items in by_consequence(found):
        console.print(f"{title}:", style="bold")
        print_points(
            console,
            (visible(f"{whom(item, teachers)} ({item.mechanism}): {item.text}") for item in items),
        )
    if not found:
        console.print("Nothing to do: no mechanism that was measured is surely at fault.")
    console.print(f"The numbers: gradalign diagnose {shlex.quote(run)} --full", soft_wrap=True)


def print_diagnostics(summary: pd.DataFrame) -> None:
    """Print, per mechanism and teacher, the figures over all nodes and what to do about them."""
    from gradalign.report.format import interval, visible

    whole = summary[summary["split"].astype(str) == "all"]
    for mechanism in NAMES:
        part = whole[whole["mechanism"].astype(str) == mechanism]
        if not len(part):
            continue
        shown = SHOWN.get(mechanism, set(part["diagnostic"].astype(str)))
        brief = part[part["diagnostic"].astype(str).isin(shown)]
        rows = (
            (
                str(row["teacher"]) or "(student)",
                str(row["diagnostic"]),
                str(row["variant"]),
                interval(row["value"], row["low"], row["high"]),
            )
            for row in brief.sort_values("teacher", kind="stable").to_dict("records")
        )
        table = make_table(
            [
                Column("diagnostic", whole=True, name=True),
                Column("variant", name=True),
                Column("value", right=True, whole=True, bracket=True),
            ],
            sectioned(rows),
            title=f"{mechanism} (95 % intervals)",
        )
        console = print_table(table)
        for row in part[part["advice"].astype(str) != ""].to_dict("records"):
            about = str(row["teacher"]) or "(student)"
            about += f" ({row['variant']})" if row["variant"] else ""
            print_points(console, [f"{visible(about)}: {row['advice']}"])
        console.print()
