"""A run's result for papers and pull requests: its table, and its main figure.

Tables are written by pandas, figures by matplotlib (extra `report`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from gradalign.errors import MissingDependencyError, UsageError
from gradalign.report.arms import arm_names, marked, ranked, teacher_colours
from gradalign.report.format import interval, number, share, visible
from gradalign.store.output_file import head_of, replacing

if TYPE_CHECKING:
    from gradalign.report.report import Report

TableFormat = Literal["md", "csv", "latex"]
FigureFormat = Literal["png", "svg"]

MARKS = {
    "md": b"<!-- gradalign -->",
    "csv": b"teacher,method,role,pooled",
    "latex": b"% gradalign",
    "png": b"gradalign",
    "svg": b"gradalign",
}
"""What every file of ours has in its head."""

_NUMBERS = (
    "pooled", "pooled_low", "pooled_high", "weights_gain_one", "weights_gain_one_low",
    "weights_gain_one_high", "mean_cosine", "mean_low", "mean_high", "positive_share", "coverage",
    "num_nodes", "num_flat",
)  # fmt: skip


def result_frame(report: Report) -> pd.DataFrame:
    """Return the result as texts: a row per teacher and method, best first, controls apart.

    Raises:
        RunError: the run has no summary yet.
    """
    rows = ranked(report.summary)
    weights = bool(rows["weights_gain_one_low"].notna().any())

    def ends(row: dict[Any, Any], name: str, other: str) -> str:
        return interval(row[name], row[f"{other}_low"], row[f"{other}_high"])

    return pd.DataFrame(
        [
            {
                "teacher": visible(row["teacher"]) or "(none)",
                "method": visible(row["method"]),
                "role": row["role"],
                "pooled": ends(row, "pooled", "pooled"),
                **(
                    {"gain per step": ends(row, "weights_gain_one", "weights_gain_one")}
                    if weights
                    else {}
                ),
                "mean": ends(row, "mean_cosine", "mean"),
                "correct": number(row["correct"]),
                "incorrect": number(row["incorrect"]),
                "positive": share(row["positive_share"]),
                "nodes": f"{row['num_nodes']:,}",
            }
            for row in _with_outcomes(report, rows).to_dict("records")
        ]
    )


def _with_outcomes(report: Report, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the pooled alignment on correct and incorrect responses as columns."""
    keys = ["teacher", "method"]
    summary = report.summary
    for split in ("correct", "incorrect"):
        part = summary.loc[summary["split"] == split, [*keys, "pooled"]]
        rows = rows.merge(part.rename(columns={"pooled": split}), on=keys, how="left")
    return rows


def table_text(report: Report, table_format: TableFormat) -> str:
    """Return the result as a table: texts with intervals, or plain numbers for csv.

    Args:
        report: a finished run.
        table_format: md, csv or latex; the packages tabulate and jinja2 make md and latex.

    Raises:
        MissingDependencyError: tabulate is not installed, for md.
    """
    mark = MARKS[table_format].decode()
    if table_format == "csv":
        rows = _with_outcomes(report, ranked(report.summary))
        columns = ["teacher", "method", "role", *_NUMBERS, "correct", "incorrect"]
        return rows[columns].to_csv(index=False)
    frame = result_frame(report)
    if table_format == "latex":
        shape = "lll" + "r" * (frame.shape[1] - 3)
        return f"{mark}\n{frame.to_latex(index=False, escape=True, column_format=shape)}"
    escaped = frame.map(lambda text: text.replace("|", r"\|"))
    try:
        return f"{mark}\n{escaped.to_markdown(index=False, disable_numparse=True)}\n"
    except ImportError as error:
        raise MissingDependencyError(
            "Markdown tables need tabulate.", "Install it with: pip install 'gradalign[report]'."
        ) from error


def main_figure(report: Report, splits: Sequence[str] = ("all",)) -> Any:
    """Draw the pooled alignment of every teacher and method with its interval, best first.

    Controls stand apart below; what needs no teacher is the measure, and is not drawn.

    Args:
        report: a finished run.
        splits: a panel for each; the order is that of the first one.

    Returns:
        A figure of matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        UsageError: the summary lacks a split, or nothing in it has a pooled alignment.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise MissingDependencyError(
            "figures in files need matplotlib.",
            "Install it with: pip install 'gradalign[report]'.",
        ) from error
    order = ranked(report.summary, splits[0])
    order = order[(order["role"] != "reference") & order["pooled"].notna()].reset_index(drop=True)
    if not len(order):
        raise UsageError(
            "no teacher has a pooled alignment in this run.", "Take more questions (--limit)."
        )
    colours = teacher_colours(report.summary["teacher"])
    places = {key: at for at, key in enumerate(zip(order["teacher"], order["method"], strict=True))}
    figure = Figure(
        figsize=(3.4 + 2.6 * len(splits), 1.3 + 0.22 * len(order)), layout="constrained"
    )
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for row in ranked(report.summary, split).to_dict("records"):
            at = places.get((row["teacher"], row["method"]))
            if at is None or not np.isfinite(row["pooled"]):
                continue
            reach = [[row["pooled"] - row["pooled_low"]], [row["pooled_high"] - row["pooled"]]]
            axes.errorbar(
                row["pooled"], at, xerr=np.nan_to_num(np.maximum(reach, 0)), ms=5, lw=1.4,
                capsize=2, fmt="D" if row["role"] == "control" else "o",
                color=colours[row["teacher"]],
            )  # fmt: skip
        axes.axvline(0, color="#5d6675", lw=1)
        num_candidates = int((order["role"] == "candidate").sum())
        if 0 < num_candidates < len(order):
            axes.axhline(num_candidates - 0.5, color="#5d6675", lw=0.8, ls=":")
        axes.grid(color="#e8e6df", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
        axes.set_xlabel("pooled alignment")
        if len(splits) > 1:
            axes.set_title({"all": "all responses"}.get(split, split), fontsize=10)
    panels[0].set_yticks(range(len(order)), [visible(name) for name in arm_names(order)])
    panels[0].set_ylim(len(order) - 0.4, -0.6)
    teachers = list(dict.fromkeys(order["teacher"]))
    figure.legend(
        handles=[
            Line2D(
                [], [], color=colours[name], marker="D" if marked(name) else "o", ls="",
                label=visible(name or "(no teacher)") + marked(name),
            )
            for name in teachers
        ],
        frameon=False, fontsize=9, loc="outside upper center", ncols=min(len(teachers), 3),
    )  # fmt: skip
    return figure


def write_figure(
    report: Report, path: str, figure_format: FigureFormat, splits: Sequence[str] = ("all",)
) -> None:
    """Write the main figure; see `main_figure`. The same run gives the same file.

    Raises:
        RunError: the file cannot be written, or is there and gradalign did not write it.
    """
    figure = main_figure(report, splits)
    import matplotlib as mpl

    about: dict[str, Any] = {"png": {"Software": "gradalign"}, "svg": {"Creator": "gradalign"}}
    about["svg"]["Date"] = None
    with (
        replacing(path, lambda target: is_ours(target, figure_format)) as target,
        mpl.rc_context({"svg.hashsalt": "gradalign"}),
    ):
        figure.savefig(target, format=figure_format, dpi=200, metadata=about[figure_format])


def write_table(report: Report, path: str, table_format: TableFormat) -> None:
    """Write the result's table; see `table_text`.

    Raises:
        RunError: the file cannot be written, or is there and gradalign did not write it.
    """
    text = table_text(report, table_format)
    with (
        replacing(path, lambda target: is_ours(target, table_format)) as target,
        open(target, "w", encoding="utf-8") as file,
    ):
        file.write(text)


def is_ours(path: str, file_format: str) -> bool:
    """Whether a file of this format is one of ours."""
    return MARKS[file_format] in head_of(path)
