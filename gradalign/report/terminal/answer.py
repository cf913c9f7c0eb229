"""What a run came to: the verdict, what it rests on, the summary's table, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradalign.errors import GradalignError
from gradalign.estimates import Arm
from gradalign.report.arms import marked, teacher_colours
from gradalign.report.format import interval, number, share, visible
from gradalign.report.terminal.tables import (
    Column,
    Row,
    Section,
    Table,
    make_table,
    print_points,
)
from gradalign.report.verdict import Recommendation, role_of

if TYPE_CHECKING:
    from rich.console import Console

    from gradalign.report.report import Report

LEGEND = "+1 leads to success, -1 away. pooled: the whole update; mean: single positions."
GAIN = "gain per step: success gained by a step of length 1 in the weights, to first order."

WITHOUT_TEACHER = {
    "reference": "no teacher, for reference",
    "control": "no teacher, as a control",
}
"""Titles of the sections of methods that look at no teacher."""


def print_answer(report: Report, console: Console) -> None:
    """Print the verdict, its evidence, the summary, and the commands to go on with.

    Args:
        report: a finished run.
        console: where to.
    """
    table = summary_table(report)  # first, because of an unfinished run there is none
    verdict, evidence = verdict_lines(report)
    size, *others = report.footer()
    console.print(visible(verdict), style="bold")
    print_points(console, map(visible, (size, *evidence)))
    console.print()
    console.print(table)
    console.print(LEGEND, style="dim")
    if report.summary["weights_gain_one_low"].notna().any():
        console.print(GAIN, style="dim")
    for line in others:
        console.print(visible(line), style="dim")
    console.print()
    for what, command in next_commands(report):
        console.print(f"{what:<24}{command}", soft_wrap=True)


def verdict_lines(report: Report) -> tuple[str, list[str]]:
    """Return the verdict in a sentence, and what else it rests on than the size of the run."""
    try:
        result = report.recommend()
    except GradalignError as error:  # such as a run in which no method looks at a teacher
        return f"No verdict: {error.message}", [error.hint] if error.hint else []
    return result.headline, _evidence(result)


def _evidence(result: Recommendation) -> list[str]:
    """Return where the controls stand, or why nothing has an alignment."""
    return list(result.evidence or result.remarks[:1])


def summary_table(report: Report) -> Table:
    """Return a row per method, in a section per teacher, the best teacher first.

    What looks at no teacher is no result: it comes last, below a line.
    """
    summary = report.summary
    main = summary[summary["split"] == "all"]
    parts = [
        summary[summary["split"] == name].set_index(["teacher", "method"])["pooled"]
        for name in ("correct", "incorrect")
    ]
    weights = bool(main["weights_gain_one_low"].notna().any())

    def cells(row: dict[Any, Any]) -> tuple[str, ...]:
        return (
            row["method"],
            interval(row["pooled"], row["pooled_low"], row["pooled_high"]),
            *(
                [interval(*(row[f"weights_gain_one{end}"] for end in ("", "_low", "_high")))]
                if weights
                else []
            ),
            interval(row["mean_cosine"], row["mean_low"], row["mean_high"]),
            *(number(part.get((row["teacher"], row["method"]))) for part in parts),
            share(row["positive_share"]),
            f"{row['num_nodes']:,}",
            f"{row['num_flat']:,}",
        )

    def columns() -> Iterator[Column]:
        yield Column("method", whole=True)
        levels = [("gain per step", 0)] if weights else []
        for title, priority in (("pooled", 0), *levels, ("mean", 2)):
            yield Column(title, right=True, whole=True, bracket=True, priority=priority)
        for title, priority in (("correct", 3), ("incorrect", 3), ("positive", 4)):
            yield Column(title, right=True, whole=True, priority=priority)
        for title in ("nodes", "flat"):
            yield Column(title, right=True, whole=True, priority=5, once=True)

    ordered = main.sort_values("pooled", ascending=False, kind="stable").to_dict("records")
    colours = teacher_colours(summary["teacher"])
    rows: list[Row] = []
    for teacher in dict.fromkeys(row["teacher"] for row in ordered if row["teacher"]):
        own = [row for row in ordered if row["teacher"] == teacher]
        rows += [Section(f"{teacher}{marked(teacher)}", colours[teacher]), *map(cells, own)]
    for role, title in WITHOUT_TEACHER.items():
        own = [
            row for row in ordered if not row["teacher"] and role_of(Arm("", row["method"])) == role
        ]
        if own:
            rows += [*([None] if rows else []), Section(title), *map(cells, own)]
    return make_table(columns(), rows, title="Alignment with the ideal gradient (95 % intervals)")


def next_commands(report: Report) -> Iterator[tuple[str, str]]:
    """Yield commands to go on with, each with what it is for; they can be copied to a shell."""
    run = shlex.quote(report.path)
    yield "The verdict in full:", f"gradalign recommend {run}"
    if report.curves:
        yield "Step by step:", f"gradalign rehearse {run}"
    yield "A page to look into:", f"gradalign report {run}"
    yield "This again:", f"gradalign show {run}"
    question = next(iter(report.question_ids), None)
    if question is not None:
        # An id that begins with a dash would be read as an option.
        option = shlex.quote(f"--question={question}")
        yield "Token by token:", f"gradalign show {run} {option}"
