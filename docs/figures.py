"""Draw the README's pictures from a finished run: python docs/figures.py RUN [FOLDER [NAME]].

With a NAME it draws pooled alignment alone, as NAME.svg. The tutorial's figure is that of
`gradalign report --format svg`.

The picture of the page needs Chromium (apt-get install chromium) and playwright.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import gradalign
from gradalign import Report
from gradalign.alignment.value_interval import branch_interval
from gradalign.report.arms import teacher_colours
from gradalign.report.paper import write_figure

mpl.use("svg")
mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "gradalign", "axes.spines.top": False})


def pooled_figure(report: Report, path: Path) -> None:
    """Pooled alignment with intervals, best first; all, correct and incorrect responses."""
    rows = report.summary.query("teacher != '' and pooled == pooled")
    splits = [split for split in ("all", "correct", "incorrect") if split in set(rows["split"])]
    write_figure(report, str(path), "svg", splits)


def node_figure(report: Report, path: Path) -> None:
    """One node: what the student may say, what comes of it, and where each update points."""
    node = _telling_node(report)
    rows = report.branches[report.branches["node_id"] == node].head(5)
    teachers = [t for t in report.summary["teacher"].unique() if t and "weak" not in t][:2]
    colours = teacher_colours(report.summary["teacher"])
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 2.4), layout="constrained", width_ratios=(1, 1, 1.4)
    )
    labels = [repr(token) for token in rows["token"]]
    x = np.arange(len(rows))
    axes[0].bar(x - 0.27, rows["student_prob"], 0.26, color="0.55", label="student P")
    for t, teacher in enumerate(teachers):
        q = report.branch_teachers
        own = q[(q["node_id"] == node) & (q["teacher"] == teacher)].set_index("token_id")
        values = own.loc[rows["token_id"], "teacher_prob"]
        axes[0].bar(x + 0.27 * t, values, 0.26, color=colours[teacher], label=f"Q of {teacher}")
    axes[0].set_ylim(0, 1.45)  # room for the legend
    axes[0].set_yticks(np.linspace(0, 1, 6))
    axes[0].legend(frameon=False, fontsize=7, loc="upper right")
    axes[0].set_title("next-token probability", fontsize=9)
    ends = [branch_interval(row, report.metadata["resolved"]) for row in rows.to_dict("records")]
    value = rows["value"].to_numpy()
    error = np.maximum([value - [low for low, _ in ends], [high for _, high in ends] - value], 0)
    axes[1].bar(x, value, 0.5, yerr=error, color="#d9a441", ecolor="0.4")
    axes[1].set_title("success after forcing it, V", fontsize=9)
    ideal = rows["ideal"].to_numpy()
    axes[2].bar(x - 0.27, ideal / np.abs(ideal).max(), 0.26, color="#d9a441", label="ideal")
    for t, teacher in enumerate(teachers):
        direction = _forward_kl(report, node, rows, teacher)
        axes[2].bar(
            x + 0.27 * t, direction / np.abs(direction).max(), 0.26, color=colours[teacher],
            label=f"forward KL, {teacher}",
        )  # fmt: skip
    axes[2].axhline(0, color="0.6", lw=0.8)
    axes[2].set_ylim(-1.1, 1.6)
    axes[2].legend(frameon=False, fontsize=7, loc="upper right")
    axes[2].set_title("where the logits would go (scaled)", fontsize=9)
    for axis in axes:
        axis.set_xticks(x, labels)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def page_picture(report: Report, path: Path) -> None:
    """The top of the page that `gradalign report` writes, in a real browser."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        page = Path(folder) / "report.html"
        report.to_html(str(page))
        chromium = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = chromium.new_page(viewport={"width": 1280, "height": 1500}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        tab.screenshot(path=path)
        chromium.close()


def _telling_node(report: Report) -> str:
    """Return the node where what matters is decided most: the largest ideal gradient."""
    nodes = report.nodes[report.nodes["num_candidates"] >= 3]
    return str(nodes.sort_values("ideal_norm2", ascending=False)["node_id"].iloc[0])


def _forward_kl(report: Report, node: str, rows: pd.DataFrame, teacher: str) -> np.ndarray:
    q = report.branch_teachers
    own = q[(q["node_id"] == node) & (q["teacher"] == teacher)].set_index("token_id")
    return own.loc[rows["token_id"], "teacher_prob"].to_numpy() - rows["student_prob"].to_numpy()


if __name__ == "__main__":
    run = gradalign.read_report(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent / "images")
    folder.mkdir(parents=True, exist_ok=True)
    name = sys.argv[3] if len(sys.argv) > 3 else ""
    pooled_figure(run, folder / f"{name or 'demo'}.svg")
    if not name:
        write_figure(run, str(folder / "demo-main.svg"), "svg")
        node_figure(run, folder / "node.svg")
        page_picture(run, folder / "page.png")
