"""What commands print: the summary as a table for people, as records for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from gradalign.config import ScoreConfig
    from gradalign.report.report import Report

DisplayOption = Annotated[
    Literal["auto", "rich", "plain", "none"],
    typer.Option(
        "--display",
        help="Progress on stderr: bars, lines, or nothing.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON on stdout, nothing else there.")
]


def wide_console(*tables: Table, file: TextIO | None = None, **options: Any) -> Console:
    """Return a console that cuts no cell of these tables where the output is not a terminal.

    There it is as wide as the widest table wants to be, and at least 132 columns.
    """
    from rich.console import Console
    from rich.measure import Measurement

    out = file or sys.stdout
    if out.isatty():
        return Console(file=file, **options)
    free = Console(width=10_000, **options)
    wanted = [Measurement.get(free, free.options, table).maximum for table in tables]
    return Console(file=file, width=max([132, *wanted]), **options)


def print_report(report: Report, *, json_output: bool) -> None:
    """Print a run's summary: a row per teacher and method."""
    summary = report.summary
    if json_output:
        records = json.loads(summary.to_json(orient="records"))
        json.dump(records, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    from rich.table import Table

    main = summary[summary["split"] == "all"]
    parts = {
        name: summary[summary["split"] == name].set_index(["teacher", "method"])
        for name in ("correct", "incorrect")
    }
    table = Table(title="Alignment with the ideal gradient (95 % intervals)", title_justify="left")
    for title in ("teacher", "method"):
        table.add_column(title, no_wrap=True)
    update = main["update"].notna().any()
    titles = ["pooled", *(["update"] if update else []), "mean"]
    for title in (*titles, "correct", "incorrect", "> 0", "nodes", "flat"):
        table.add_column(title, justify="right", no_wrap=True)
    last = None
    for row in main.sort_values(["teacher", "pooled"], ascending=[True, False]).to_dict("records"):
        key = (row["teacher"], row["method"])
        if last is not None and row["teacher"] != last:
            table.add_section()
        table.add_row(
            (row["teacher"] or "(none)") if row["teacher"] != last else "",
            row["method"],
            _interval(row, "pooled", "pooled_low", "pooled_high"),
            *([_interval(row, "update", "update_low", "update_high")] if update else []),
            _interval(row, "mean_cosine", "mean_low", "mean_high"),
            *(_number(_at(part, key, "pooled")) for part in parts.values()),
            _share(row["positive_share"]),
            f"{row['num_nodes']:,}",
            f"{row['num_flat']:,}",
        )
        last = row["teacher"]
    console = wide_console(table)
    console.print(table)
    for line in report.footer():
        console.print(line, style="dim", highlight=False, markup=False)


def print_previews(config: ScoreConfig, count: int, *, json_output: bool) -> None:
    """Print the exact prompts of a run."""
    from dataclasses import asdict

    from gradalign.stages.preparation.preview import preview_prompts

    views = preview_prompts(config, count)
    if json_output:
        json.dump([asdict(view) for view in views], sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    for view in views:
        note = f" ({view.note})" if view.note else ""
        print(f"--- {view.question_id}, {view.reader}, {len(view.token_ids)} tokens{note}")
        print(view.text)
        print(" ".join(map(str, view.token_ids)))


def print_records(records: list[dict[str, Any]], *, json_output: bool) -> None:
    """Print a list of things as a table, or as JSON."""
    if json_output:
        json.dump(records, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=False, box=None, pad_edge=False)
    for title in records[0] if records else []:
        table.add_column(title, no_wrap=title == "name", overflow="fold")
    for record in records:
        table.add_row(*(str(value) for value in record.values()))
    Console(width=None if sys.stdout.isatty() else 132).print(table, highlight=False, markup=False)


def _at(part: pd.DataFrame, key: tuple[str, str], column: str) -> float:
    return float(part.at[key, column]) if key in part.index else math.nan  # type: ignore[arg-type]


def _interval(row: Mapping[Any, Any], value: str, low: str, high: str) -> str:
    from gradalign.report.format import interval

    return interval(row[value], row[low], row[high])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.0%}"
