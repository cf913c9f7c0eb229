"""How a report shows itself in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from gradalign.report.format import interval, number, visible
from gradalign.report.unfinished import unfinished

if TYPE_CHECKING:
    from gradalign.report.report import Report


def html_table(titles: list[str], rows: list[list[str]]) -> str:
    """Return a plain HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(visible(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def summary_html(report: Report) -> str:
    """Return a run's summary as HTML: a row per teacher and method, with intervals."""
    name = f"<b>{escape(visible(report.path))}</b>"
    if not report.has_summary:
        why = escape(visible(str(unfinished(report.folder, report.metadata)), newlines=True))
        return f"<div>{name}: no summary yet. {why}</div>"
    summary = report.summary
    at: dict[tuple[str, str, str], Any] = {
        (row["teacher"], row["method"], row["split"]): row["pooled"]
        for row in summary[summary["split"].isin(["correct", "incorrect"])].to_dict("records")
    }
    main = summary[summary["split"] == "all"].sort_values("pooled", ascending=False)
    rows = [
        [
            row["teacher"] or "(none)",
            row["method"],
            interval(row["pooled"], row["pooled_low"], row["pooled_high"]),
            interval(row["mean_cosine"], row["mean_low"], row["mean_high"]),
            *(
                number(at.get((row["teacher"], row["method"], split)))
                for split in ("correct", "incorrect")
            ),
            f"{row['num_nodes']:,}",
        ]
        for row in main.to_dict("records")
    ]
    titles = ["teacher", "method", "pooled", "mean", "correct", "incorrect", "nodes"]
    footer = "<br>".join(escape(visible(line)) for line in report.footer())
    return f"<div>{html_table(titles, rows)}<small>{footer}</small></div>"
