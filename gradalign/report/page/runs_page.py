"""One self-contained HTML page of many runs: a leaderboard, best first, and where each page is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gradalign.report.arms import COLOURS, LONGEST_IN_FIGURE, ranked
from gradalign.report.format import visible
from gradalign.report.page.run_data import rounded
from gradalign.report.page.run_page import facts, page_path
from gradalign.report.page.template import fill, page_file
from gradalign.report.terminal.answer import verdict_lines
from gradalign.report.terminal.tables import short_names
from gradalign.report.verdict.recommendation import context_of
from gradalign.store.output_file import is_page

if TYPE_CHECKING:
    from gradalign.report.report import Report


def write_runs_page(reports: Sequence[Report], path: str) -> None:
    """Write the page.

    Args:
        reports: finished runs, of which each may have other students, tasks, teachers and methods.
        path: the file.

    Raises:
        RunError: a run is not finished, or the file cannot be written, or is no page of ours.
    """
    for report in reports:
        report.check_finished()
    with page_file(path) as target:
        target.write_text(_render(reports, os.path.dirname(os.path.abspath(path))), "utf-8")


def _render(reports: Sequence[Report], folder: str) -> str:
    names = run_names([report.path for report in reports])
    about = [facts(report) for report in reports]
    rows = runs_data(reports, names)
    teachers = list(dict.fromkeys(row["teacher"] for row in rows))
    short = short_names(teachers, LONGEST_IN_FIGURE)
    return fill(
        "runs.html.j2",
        ("runs.js",),
        {
            "rows": rows,
            "runs": [visible(name) for name in names],
            "short": {name: short.get(name, name) for name in teachers},
            "palette": COLOURS,
        },
        path=f"{len(reports)} runs",
        num_runs=len(reports),
        runs=[
            {
                "name": visible(name),
                "link": _link(report, folder),
                **{
                    key: visible(said[key])
                    for key in ("student", "task", "verifier", "accuracy", "questions", "cost")
                },
                "headline": visible(verdict_lines(report)[0]),
            }
            for report, name, said in zip(reports, names, about, strict=True)
        ],
    )


def runs_data(reports: Sequence[Report], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per run, teacher and method, highest pooled alignment first.

    Args:
        reports: the runs.
        names: what to call them, in this order.
    """
    rows: list[dict[str, Any]] = []
    for report, name in zip(reports, names, strict=True):
        said = facts(report)
        for row in ranked(report.summary).to_dict("records"):
            texts = {
                "run": name,
                "student": said["student"],
                "task": said["task"],
                "accuracy": said["accuracy"],
                "questions": said["questions"],
                "teacher": str(row["teacher"]),
                "context": context_of(str(row["teacher"])),
                "method": str(row["method"]),
                "role": str(row["role"]),
            }
            pooled, gain = (
                [rounded(row[f"{column}{end}"], 3) for end in ("", "_low", "_high")]
                for column in ("pooled", "weights_gain_one")
            )
            shown = {key: visible(text) for key, text in texts.items()}
            rows.append({**shown, "pooled": pooled, "gain": gain})
    return sorted(rows, key=lambda row: math.inf if row["pooled"][0] is None else -row["pooled"][0])


def run_names(paths: Sequence[str]) -> list[str]:
    """Return what to call runs: their folders' names, or whole paths where two have the same."""
    lasts = [path.rstrip("/").rpartition("/")[2] for path in paths]
    return lasts if len(set(lasts)) == len(lasts) else list(paths)


def _link(report: Report, folder: str) -> str:
    """Return the way from a folder to a run's own page; empty if it has none there."""
    own = page_path(report)
    if not report.folder.local or not os.path.isfile(own) or not is_page(own):
        return ""
    return quote(os.path.relpath(own, folder))
