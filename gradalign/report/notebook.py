"""How a report shows itself in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from gradalign.report.format import visible
from gradalign.report.paper import result_frame
from gradalign.report.unfinished import unfinished

if TYPE_CHECKING:
    from gradalign.report.report import Report


def summary_html(report: Report) -> str:
    """Return a run's summary as HTML: a row per teacher and method, with intervals."""
    if not report.has_summary:
        why = escape(visible(str(unfinished(report.folder, report.metadata)), newlines=True))
        return f"<div><b>{escape(visible(report.path))}</b>: no summary yet. {why}</div>"
    table = result_frame(report).to_html(index=False, border=0)
    footer = "<br>".join(escape(visible(line)) for line in report.footer())
    return f"<div>{table}<small>{footer}</small></div>"
