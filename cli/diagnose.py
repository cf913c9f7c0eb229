"""`gradalign diagnose`: why a run's teachers point where they do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gradalign.diagnostics import NAMES

from .output import DisplayOption, wide_console

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {
    "topk": {"alignment", "cosine_to_full"},
    "horizon": {"alignment", "relative_bias", "noise_ratio", "negative_share", "log_prob_gap"},
}
"""The diagnostics to print where a mechanism has too many for a screen."""

HELP = """Measure why a run's teachers point where they do, and say what to do about it.

Computes the diagnostics that the run does not hold yet, from what is stored; what is there is not
done again. overlap, topk, contexts and predictors cost arithmetic only. horizon scores the stored
continuations once with the student and every teacher, unless a method of the run did. prefix is the
only one that samples: per spine 2 continuations from each of 3 depths by the student, and 2 from
scratch and from each depth by every teacher, so 6 + 8 x teachers per spine, each half a response
long on average. With --only, only these are computed and shown.
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("diagnose", help=HELP)(_diagnose)


def _diagnose(
    run: Annotated[str, typer.Argument(help="Folder or URL that `gradalign score` wrote.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help=f"One of {', '.join(NAMES)}; repeatable. Default: all."),
    ] = None,
    display: DisplayOption = "auto",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the diagnostics' summary as JSON on stdout.")
    ] = False,
) -> None:
    from gradalign.pipeline import diagnose_run
    from gradalign.progress import make_reporter

    report = diagnose_run(run, only or (), reporter=make_reporter(display))
    summary = report.table("diagnostics_summary")
    if only and "all" not in only:
        summary = summary[summary["mechanism"].astype(str).isin(only)]
    if json_output:
        json.dump(json.loads(summary.to_json(orient="records")), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    print_diagnostics(summary)


def print_diagnostics(summary: pd.DataFrame) -> None:
    """Print, per mechanism and teacher, the figures over all nodes and what to do about them."""
    from rich.table import Table

    from gradalign.report.format import visible

    whole = summary[summary["split"].astype(str) == "all"]
    for mechanism in NAMES:
        part = whole[whole["mechanism"].astype(str) == mechanism]
        if not len(part):
            continue
        table = Table(title=mechanism, title_justify="left")
        for title in ("teacher", "diagnostic", "variant"):
            table.add_column(title)
        table.add_column("value [95 % interval]", justify="right", no_wrap=True)
        last = None
        shown = SHOWN.get(mechanism, set(part["diagnostic"].astype(str)))
        brief = part[part["diagnostic"].astype(str).isin(shown)]
        for row in brief.sort_values("teacher", kind="stable").to_dict("records"):
            teacher = visible(str(row["teacher"])) or "(student)"
            if last is not None and teacher != last:
                table.add_section()
            table.add_row(
                teacher if teacher != last else "",
                str(row["diagnostic"]),
                visible(str(row["variant"])),
                _figure(row["value"], row["low"], row["high"]),
            )
            last = teacher
        console = wide_console(table, highlight=False, markup=False)
        console.print(table)
        for row in part[part["advice"].astype(str) != ""].to_dict("records"):
            about = f"{row['teacher']} ({row['variant']})" if row["variant"] else row["teacher"]
            console.print(f"- {visible(str(about))}: {row['advice']}")
        console.print()


def _figure(value: float, low: float, high: float) -> str:
    if value != value:
        return "-"
    ends = "" if low != low else f" [{low:+.3f}, {high:+.3f}]"
    return f"{value:+.3f}{ends}"
