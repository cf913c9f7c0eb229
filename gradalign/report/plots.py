"""Figures for notebooks: `report.plot.methods()` and the like. Needs plotly (extra `report`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from gradalign.errors import MissingDependencyError, UsageError
from gradalign.estimates import Arm
from gradalign.report.format import visible
from gradalign.report.node_scores import arms_in
from gradalign.report.verdict import role_of
from gradalign.store.splits import ENTROPY_NAMES, QUARTERS

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.report.report import Report

COLOURS = ("#2f6fb7", "#d1603d", "#3f9b6d", "#8d6cc0", "#c99a2e", "#4aa3b5", "#b5487e", "#7a7a7a")
DIVERGING = ((0.0, "#c9522c"), (0.5, "#f4f1ea"), (1.0, "#1f5fad"))


def plotly_objects() -> Any:
    """Import plotly's graph objects.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    try:
        return importlib.import_module("plotly.graph_objects")
    except ImportError as error:
        raise MissingDependencyError(
            "figures and pages need plotly.", "Install it with: pip install 'gradalign[report]'."
        ) from error


def best_arm(summary: pd.DataFrame) -> Arm:
    """Return the teacher and method with the highest pooled alignment; no control beside others.

    Raises:
        UsageError: no teacher has one.
    """
    rows = _led(summary)
    rows = rows[np.isfinite(rows["pooled"].to_numpy(dtype=float))]
    if not len(rows):
        raise UsageError(
            "no teacher has a pooled alignment in this run.",
            "Name a teacher and a method, or take more questions.",
        )
    top = rows.sort_values("pooled", ascending=False, kind="stable").iloc[0]
    return Arm(str(top["teacher"]), str(top["method"]))


def _led(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of arms with a teacher; controls only where there are no others."""
    rows = summary[(summary["split"] == "all") & (summary["teacher"] != "")]
    arms = map(Arm, rows["teacher"].astype(str), rows["method"].astype(str))
    is_control = [role_of(arm) == "control" for arm in arms]
    return rows if all(is_control) else rows[~np.array(is_control, dtype=bool)]


def marked(teacher: str) -> str:
    """Return what is put behind the name of a teacher that was told something false."""
    return " (control)" if role_of(Arm(teacher, "")) == "control" else ""


def shown_arm(summary: pd.DataFrame) -> Arm:
    """Return the best arm, or where none can be said to be, the first that looks at a teacher."""
    rows = summary[summary["split"] == "all"]
    led = _led(summary)
    if led["pooled"].notna().any():
        return best_arm(summary)
    return arms_in(led if len(led) else rows)[0]


class Plots:
    """Figures of one report; each is a plotly figure, or fails with how to install plotly."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def methods(self, split: str = "all") -> Any:
        """Draw the pooled alignment of every method with its interval, coloured by teacher.

        Args:
            split: all, correct, incorrect, or any other split of the summary.
        """
        go = plotly_objects()
        rows = self._split(split)
        figure = go.Figure()
        for i, teacher in enumerate(rows["teacher"].unique()):
            own = rows[rows["teacher"] == teacher].sort_values("pooled")
            figure.add_scatter(
                x=own["pooled"],
                y=[visible(method) for method in own["method"]],
                mode="markers",
                name=visible(teacher or "(no teacher)") + marked(teacher),
                marker={"size": 9, "color": COLOURS[i % len(COLOURS)]},
                error_x=_bars(own),
            )
        figure.add_vline(0, line_color="grey", line_width=1)
        title = "Pooled alignment" + ("" if split == "all" else f", {visible(split)}")
        return _laid_out(figure, title, "pooled alignment with the ideal gradient", "method")

    def positions(self, method: str | None = None) -> Any:
        """Draw the pooled alignment by position in the response, a line per teacher.

        Args:
            method: whose; the best arm's by default, or the first one's.
        """
        return self._lines("position", QUARTERS, "position in the response", method)

    def entropy(self, method: str | None = None) -> Any:
        """Draw the pooled alignment by the student's entropy (thirds of the nodes)."""
        return self._lines("entropy", ENTROPY_NAMES, "entropy of the student", method)

    def rehearsal(self, measured: pd.DataFrame | None = None) -> Any:
        """Draw the rehearsed gain over the steps of every training, a line per teacher and method.

        Lines are dotted where they are no longer trusted.

        Args:
            measured: gains of real trainings, drawn as crosses: columns teacher, method, steps and
                gain.

        Raises:
            UsageError: the run has no rehearsal.
        """
        go = plotly_objects()
        curves = self._report.curves
        if not curves:
            raise UsageError("the run has no rehearsal.", "gradalign.rehearse(report) adds one.")
        figure = go.Figure()
        for i, (arm, points) in enumerate(curves.items()):
            colour = COLOURS[i % len(COLOURS)]
            trusted = [point for point in points if point.trusted]
            beyond = [*trusted[-1:], *(point for point in points if not point.trusted)]
            for some, dash in ((trusted, "solid"), (beyond, "dot")):
                if len(some) < 1 + (dash == "dot"):
                    continue
                figure.add_scatter(
                    x=[0, *(p.steps for p in some)] if dash == "solid" else [p.steps for p in some],
                    y=[0, *(p.gain.value for p in some)] if dash == "solid" else [
                        p.gain.value for p in some
                    ],
                    name=visible(str(arm)) + (" (trust ends)" if dash == "dot" else ""),
                    mode="lines+markers", line={"color": colour, "dash": dash},
                    legendgroup=str(arm), showlegend=dash == "solid",
                )  # fmt: skip
            if measured is not None:
                is_arm = (measured["teacher"].fillna("") == arm.teacher) & (
                    measured["method"] == arm.method
                )
                own = measured[is_arm]
                figure.add_scatter(
                    x=own["steps"], y=own["gain"], mode="markers", legendgroup=str(arm),
                    marker={"color": colour, "symbol": "x", "size": 9}, showlegend=False,
                    name=f"{visible(str(arm))}, measured",
                )  # fmt: skip
        figure.add_hline(0, line_color="grey", line_width=1)
        return _laid_out(figure, "Rehearsed training", "steps of training", "gain of success")

    def distribution(self, teacher: str | None = None, method: str | None = None) -> Any:
        """Draw how the per-node cosines are distributed, correct and incorrect spines apart."""
        go = plotly_objects()
        arm = self._arm(teacher, method)
        table = self._report.table("alignment", ["teacher", "method", "correct", "cosine"])
        own = table[(table["teacher"] == arm.teacher) & (table["method"] == arm.method)]
        figure = go.Figure()
        for correct, name, colour in (
            (True, "correct", "#1f5fad"),
            (False, "incorrect", "#c9522c"),
        ):
            figure.add_histogram(
                x=own.loc[own["correct"] == correct, "cosine"].dropna(),
                name=name,
                marker_color=colour,
                opacity=0.65,
                xbins={"start": -1, "end": 1.0001, "size": 0.1},
            )
        figure.update_layout(barmode="overlay")
        return _laid_out(figure, f"Cosines of nodes: {visible(str(arm))}", "cosine", "nodes")

    def tokens(self, spine_id: str, teacher: str | None = None) -> Any:
        """Draw a response as a heat map: its tokens across, a row per method, colour by cosine.

        Args:
            spine_id: which response; see `report.spines`.
            teacher: whose methods; the best arm's by default.

        Raises:
            UsageError: no such spine.
        """
        go = plotly_objects()
        spines = self._report.table("spines", ["question_id", "spine_id", "num_tokens"])
        found = spines[spines["spine_id"] == spine_id]
        if not len(found):
            known = ", ".join(spines["spine_id"].astype(str).head(5))
            raise UsageError(f"no spine {spine_id!r}.", f"The run has {known}, ... .")
        teacher = self._arm(teacher, None).teacher
        question = str(found["question_id"].iloc[0])
        length = int(found["num_tokens"].iloc[0])
        rows = self._report.table("alignment", question_id=question)
        rows = rows[(rows["spine_id"] == spine_id) & (rows["teacher"] == teacher)]
        names = list(dict.fromkeys(rows["method"]))
        cosine_ML = np.full((len(names), length), np.nan)
        at = [names.index(method) for method in rows["method"]]
        cosine_ML[at, rows["position"].to_numpy(dtype=int)] = rows["cosine"]
        said = self._report.table("tokens", question_id=question)
        said = said[said["spine_id"] == spine_id].drop_duplicates("position")
        texts = dict(zip(said["position"], said["token"], strict=True))
        labels = [f"{i}: {visible(texts.get(i, '?'))}" for i in range(length)]
        figure = go.Figure(
            go.Heatmap(
                z=cosine_ML, x=labels, y=[visible(name) for name in names],
                zmin=-1, zmax=1, colorscale=[list(stop) for stop in DIVERGING], xgap=1, ygap=1,
                colorbar={"title": "cosine"},
            )
        )  # fmt: skip
        figure.update_xaxes(tickangle=-60)
        title = f"{visible(spine_id)} under {visible(teacher)}"
        return _laid_out(figure, title, "token", "method")

    def _lines(self, kind: str, names: tuple[str, ...], title: str, method: str | None) -> Any:
        go = plotly_objects()
        summary = self._report.summary
        method = method or self._arm(None, None).method
        figure = go.Figure()
        rows = summary[(summary["method"] == method) & summary["split"].str.startswith(kind)]
        if not len(rows):
            raise UsageError(f"no method {method!r} in this run.", _known(summary))
        for i, teacher in enumerate(rows["teacher"].unique()):
            own = rows[rows["teacher"] == teacher].set_index("split")
            own = own.reindex([f"{kind}:{name}" for name in names])
            figure.add_scatter(
                x=list(names), y=own["pooled"], name=visible(teacher or "(no teacher)"),
                mode="lines+markers", marker={"size": 8},
                line={"color": COLOURS[i % len(COLOURS)]}, error_y=_bars(own),
            )  # fmt: skip
        figure.add_hline(0, line_color="grey", line_width=1)
        return _laid_out(
            figure, f"Pooled alignment of {visible(method)}", title, "pooled alignment"
        )

    def _split(self, split: str) -> pd.DataFrame:
        summary = self._report.summary
        rows = summary[summary["split"] == split]
        if not len(rows):
            raise UsageError(f"no split {split!r} in this run.", "See report.summary['split'].")
        return rows

    def _arm(self, teacher: str | None, method: str | None) -> Arm:
        summary = self._report.summary
        for name, wanted in (("teacher", teacher), ("method", method)):
            if wanted is not None and wanted not in set(summary[name]):
                raise UsageError(f"no {name} {wanted!r} in this run.", _known(summary))
        kept = summary
        if teacher is not None:
            kept = kept[kept["teacher"] == teacher]
        if method is not None:
            kept = kept[kept["method"] == method]
        if teacher == "":
            return Arm("", method or str(kept["method"].iloc[0]))
        return shown_arm(kept)


def _known(summary: pd.DataFrame) -> str:
    return f"Known: {', '.join(map(str, arms_in(summary)))}."


def _bars(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["pooled_high"] - rows["pooled"]).clip(lower=0),
        "arrayminus": (rows["pooled"] - rows["pooled_low"]).clip(lower=0),
        "thickness": 1.2,
        "width": 3,
    }


def _laid_out(figure: Any, title: str, x: str, y: str) -> Any:
    figure.update_layout(
        title=title, xaxis_title=x, yaxis_title=y, template="plotly_white",
        margin={"l": 60, "r": 20, "t": 50, "b": 50}, legend={"orientation": "h", "y": -0.25},
    )  # fmt: skip
    return figure
