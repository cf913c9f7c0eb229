"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its first line.
        right: cells stand at the right, as numbers do.
        whole: cells stay on one line.
        fold: what is too long goes on in the next line at any character.
    """

    title: str
    right: bool = False
    whole: bool = False
    fold: bool = False


def make_table(
    columns: Iterable[Column],
    rows: Iterable[Sequence[str] | None],
    *,
    title: str | None = None,
    lines: bool = True,
    header: bool = True,
    style: Callable[[Sequence[str]], str] | None = None,
) -> Table:
    """Make a table.

    Args:
        columns: from left to right.
        rows: a text per column; None draws a line between two rows.
        title: above the table.
        lines: a frame and lines between columns.
        header: the columns' titles.
        style: rich's style of a row.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        box=box.HEAVY_HEAD if lines else None,
        pad_edge=lines,
        show_header=header,
    )
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row, style=style(row) if style else None)
    return table


def grouped(rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str] | None]:
    """Part the rows of a table by their first cell, which is shown once."""
    last = None
    for row in rows:
        if last is not None and row[0] != last:
            yield None
        yield ("" if row[0] == last else row[0], *row[1:])
        last = row[0]


def print_table(
    table: Table,
    *,
    notes: Iterable[str] = (),
    width: int | None = None,
    file: TextIO | None = None,
    highlight: bool = False,
) -> Console:
    """Print a table; texts are shown as they are, brackets too.

    Args:
        table: made by `make_table`.
        notes: lines below it.
        width: in columns, where the output is not a terminal; None for what the table wants.
        file: where to; stdout by default.
        highlight: colour numbers on a terminal.

    Returns:
        The console, for what comes after.
    """
    from rich.console import Console

    out = file or sys.stdout
    if width is None:
        console = wide_console(table, file=file)
    else:
        fixed = None if out.isatty() else width
        console = Console(file=file, width=fixed, highlight=False, markup=False)
    console.print(table, highlight=highlight)
    for line in notes:
        console.print(line, style="dim")
    return console


def wide_console(*tables: Table, file: TextIO | None = None) -> Console:
    """Return a console that cuts no cell of these tables where the output is not a terminal.

    There it is as wide as the widest table wants to be, and at least 132 columns.
    """
    from rich.console import Console
    from rich.measure import Measurement

    if (file or sys.stdout).isatty():
        return Console(file=file, highlight=False, markup=False)
    free = Console(width=10_000, highlight=False, markup=False)
    wanted = [Measurement.get(free, free.options, table).maximum for table in tables]
    return Console(file=file, width=max([132, *wanted]), highlight=False, markup=False)


def print_report(report: Report, *, json_output: bool) -> None:
    """Print a run's summary: a row per teacher and method."""
    from gradalign.report.format import interval, number, share

    summary = report.summary
    if json_output:
        print_json(summary, escape=True)
        return
    main = summary[summary["split"] == "all"]
    parts = [
        summary[summary["split"] == name].set_index(["teacher", "method"])["pooled"]
        for name in ("correct", "incorrect")
    ]
    update = main["update"].notna().any()
    titles = ("pooled", *(["update"] if update else []), "mean")
    rows = (
        (
            row["teacher"] or "(none)",
            row["method"],
            interval(row["pooled"], row["pooled_low"], row["pooled_high"]),
            *([interval(row["update"], row["update_low"], row["update_high"])] if update else []),
            interval(row["mean_cosine"], row["mean_low"], row["mean_high"]),
            *(number(part.get((row["teacher"], row["method"]))) for part in parts),
            share(row["positive_share"]),
            f"{row['num_nodes']:,}",
            f"{row['num_flat']:,}",
        )
        for row in main.sort_values(["teacher", "pooled"], ascending=[True, False]).to_dict(
            "records"
        )
    )
    table = make_table(
        [
            *(Column(title, whole=True) for title in ("teacher", "method")),
            *(
                Column(title, right=True, whole=True)
                for title in (*titles, "correct", "incorrect", "> 0", "nodes", "flat")
            ),
        ],
        grouped(rows),
        title="Alignment with the ideal gradient (95 % intervals)",
    )
    print_table(table, notes=report.footer(), highlight=True)


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
        [Column(title, whole=title == "name", fold=True) for title in (records or [{}])[0]],
        ([str(value) for value in record.values()] for record in records),
        lines=False,
    )
    print_table(table, width=132)
