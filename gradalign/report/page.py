"""One self-contained HTML page of a run: verdict, charts with their tables, and the responses.

Model output reaches the page in two ways only: through jinja2's autoescape, and inside a
base64 block that the page's own script unpacks and writes as text, never as markup.
"""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradalign.errors import MissingDependencyError, RunError
from gradalign.report.format import interval, p_value, visible
from gradalign.report.page_data import page_data
from gradalign.report.plots import COLOURS, plotly_objects
from gradalign.report.verdict import Recommendation
from gradalign.store.output_file import is_page, replacing

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
        MissingDependencyError: plotly is not installed.
        RunError: the file cannot be written, or is there and is no page of ours.
    """
    try:
        with replacing(path, is_page) as target:
            html, shown = render(report, max_spines=max_spines, measured=measured)
            Path(target).write_text(html, encoding="utf-8")
    except RunError:
        raise
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}.", "Give another --output."
        ) from error
    return shown


def render(
    report: Report, *, max_spines: int = 200, measured: pd.DataFrame | None = None
) -> tuple[str, int]:
    """Return a run's page and how many responses it shows; see `write_page`.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    plotly_js = _plotly_js()
    result = report.recommend()
    while True:
        data = page_data(report, max_spines, measured)
        html = _fill(report, result, data, plotly_js)
        if len(html.encode()) <= MAX_BYTES or len(data["spines"]) <= 1:
            return html, len(data["spines"])
        max_spines = len(data["spines"]) // 2


def _fill(report: Report, result: Recommendation, data: dict[str, Any], plotly_js: str) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(_text("report.html.j2"))
    config = report.metadata.get("config", {})
    return template.render(
        path=visible(report.path),
        student=visible(str(config.get("student", ""))),
        task=visible(str(config.get("task", ""))),
        labels={visible(k): visible(v) for k, v in config.get("labels", {}).items()},
        created=visible(str(report.metadata.get("created", ""))),
        version=visible(str(report.metadata.get("versions", {}).get("gradalign", ""))),
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
        diagnostics=data["diagnostics"],
        style=Markup(_text("page.css")),
        script=Markup(_text("page.js")),
        plotly=Markup(plotly_js),
        data=_packed({**data, "diagnostics": None, "colours": COLOURS}),
    )


def _packed(data: dict[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _text(name: str) -> str:
    return files("gradalign.report").joinpath("templates", name).read_text(encoding="utf-8")


def _plotly_js() -> str:
    """Return the plotly.js that comes with plotly.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    spec = find_spec("plotly")
    if spec is None:
        plotly_objects()  # says what to install
    try:
        return files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")
    except OSError as error:
        raise MissingDependencyError(
            "this plotly comes without plotly.min.js.",
            "Install it with: pip install 'gradalign[report]'.",
        ) from error
