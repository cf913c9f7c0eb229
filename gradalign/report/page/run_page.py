"""One self-contained HTML page of a run: verdict, charts with their tables, and the responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gradalign.report.format import interval, p_value, rough_duration, visible
from gradalign.report.page.run_data import diagnostics, page_data
from gradalign.report.page.template import fill, page_file
from gradalign.report.terminal.findings import by_consequence, findings, whom
from gradalign.report.verdict import Recommendation
from gradalign.store.manifest import command_to_go_on

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.report.report import Report

MAX_BYTES = 8_000_000
"""A page is not larger: it shows fewer responses instead."""


def page_path(report: Report) -> str:
    """Return where a run's page goes by default: beside its tables, if they are on this machine."""
    return report.folder.path("report.html") if report.folder.local else "report.html"


def write_page(
    report: Report, path: str, *, max_spines: int = 200, measured: pd.DataFrame | None = None
) -> int:
    """Write a run's page and return how many responses it shows.

    Args:
        report: a finished run.
        path: the file.
        max_spines: at most this many responses.
        measured: gains of real trainings, from `read_measured`.

    Raises:
        RunError: the file cannot be written, or is there and is no page of ours.
    """
    with page_file(path) as target:
        html, shown = render(report, max_spines=max_spines, measured=measured)
        target.write_text(html, encoding="utf-8")
    return shown


def render(
    report: Report, *, max_spines: int = 200, measured: pd.DataFrame | None = None
) -> tuple[str, int]:
    """Return a run's page and how many responses it shows; see `write_page`."""
    result = report.recommend()
    while True:
        data = page_data(report, max_spines, measured)
        html = _fill(report, result, data)
        if len(html.encode()) <= MAX_BYTES or len(data["spines"]) <= 1:
            return html, len(data["spines"])
        max_spines = len(data["spines"]) // 2


def _fill(report: Report, result: Recommendation, data: dict[str, Any]) -> str:
    return fill(
        "run.html.j2",
        ("responses.js", "run.js"),
        data,
        path=visible(report.path),
        facts={visible(name): visible(text) for name, text in facts(report).items() if text},
        verdict=result.verdict,
        basis=result.basis,
        headline=visible(result.headline),
        remarks=[visible(line) for line in result.remarks],
        footer=[visible(line) for line in report.footer()],
        ranking=[
            {
                "rank": item.rank,
                "teacher": visible(item.teacher) or "(none)",
                "method": visible(item.method),
                "role": item.role,
                "value": interval(*item.value.span),
                "difference": (
                    "-" if item.against_leader is None else interval(*item.against_leader.span)
                ),
                "p": p_value(
                    None if item.against_leader is None else item.against_leader.adjusted_p
                ),
            }
            for item in result.ranking
        ],
        findings=_findings(report),
        diagnostics=diagnostics(report),
    )


def facts(report: Report) -> dict[str, str]:
    """Return what a reader has to know of a run before its numbers; what is not known is empty."""
    metadata = report.metadata
    config, totals = metadata.get("config", {}), metadata.get("totals", {})
    spines, right = totals.get("spines", 0), totals.get("correct_spines", 0)
    seconds = metadata.get("actual", {}).get("seconds", {}).get("total")
    task = str(config.get("task", ""))
    return {
        "student": str(config.get("student", "")),
        "task": task,
        "split": _split(task, metadata.get("task", {}).get("evaluation")),
        "verifier": str(metadata.get("resolved", {}).get("verifier", "")),
        "accuracy": f"{right / spines:.0%} ({right:,} of {spines:,} responses)" if spines else "",
        "questions": f"{metadata.get('num_questions', 0):,}",
        "cost": f"{rough_duration(seconds)}, {totals.get('continuations', 0):,} targeted rollouts"
        if seconds
        else "",
        "scored": str(metadata.get("created", "")),
        "version": str(metadata.get("versions", {}).get("gradalign", "")),
        **config.get("labels", {}),
        "command": command_to_go_on(report.path),
    }


def _split(task: str, evaluation: str | None) -> str:
    """Return which part of a data set the questions are, as far as the task says it."""
    options = dict(part.partition("=")[::2] for part in re.split("[:,]", task))
    return evaluation or options.get("split", "")


def _findings(report: Report) -> list[dict[str, Any]]:
    """Return what the diagnostics ask to do, the gravest first, under the title of what follows."""
    summary = report.diagnostics_summary
    teachers = len(set(summary["teacher"].astype(str)) - {""})
    return [
        {
            "title": title,
            "items": [
                {
                    "mechanism": item.mechanism,
                    "teachers": [visible(name) for name in item.teachers],
                    "whom": visible(whom(item, teachers)),
                    "text": visible(item.text),
                }
                for item in items
            ],
        }
        for title, items in by_consequence(findings(summary))
    ]
