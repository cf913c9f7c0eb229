"""Figures for notebooks: `report.plot.methods()` and the like. Needs plotly (extra `report`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from gradalign.errors import MissingDependencyError, UsageError
from gradalign.estimates import Arm
from gradalign.report.arms import (
    DIVERGING,
    arm_names,
    marked,
    ranked,
    shown_arm,
    teacher_colours,
)
from gradalign.report.format import visible
from gradalign.report.node_scores import arms_in
from gradalign.store.splits import ENTROPY_NAMES, QUARTERS

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.report.report import Report

SYMBOLS = {"candidate": "circle", "control": "diamond", "reference": "square"}
DASHES = ("solid", "dash", "longdash", "dashdot", "longdashdot")


def plotly_objects() -> Any:
    """Import plotly's graph objects.

    Raises:
        MissingDependencyError: plotly is not installed.
    """
    try:
        return importlib.import_module("plotly.graph_objects")
    except ImportError as error:
        raise MissingDependencyError(
            "figures for notebooks need plotly.",
            "Install it with: pip install 'gradalign[report]'.",
        ) from error


class Plots:
    """Figures of one report; each is a plotly figure, or fails with how to install plotly."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def methods(self, split: str = "all") -> Any:
        """Draw the pooled alignment of every teacher and method with its interval, best first.

        Colours are the teachers' own in all figures. Controls and references stand apart.

        Args:
            split: all, correct, incorrect, or any other split of the summary.

        Raises:
            UsageError: the summary has no such split.
        """
        go = plotly_objects()
        rows = ranked(self._report.summary, split)
        rows = rows.assign(name=[visible(name) for name in arm_names(rows)])
        figure = go.Figure()
        for teacher, colour in self._colours().items():
            own = rows[rows["teacher"] == teacher]
            if not len(own):
                continue
            figure.add_scatter(
                x=own["pooled"], y=own["name"], mode="markers", error_x=_bars(own),
                name=visible(teacher or "(no teacher)") + marked(teacher),
                marker={
                    "size": 9, "color": colour,
                    "symbol": [SYMBOLS[role] for role in own["role"]],
                },
            )  # fmt: skip
        figure.add_vline(0, line_color="grey", line_width=1)
        for after in np.flatnonzero(rows["role"].ne(rows["role"].shift(-1)))[:-1]:
            figure.add_hline(after + 0.5, line_color="grey", line_width=0.5, line_dash="dot")
        figure.update_xaxes(rangemode="tozero")
        figure.update_yaxes(
            categoryorder="array", categoryarray=rows["name"], range=[len(rows) - 0.4, -0.6]
        )
        figure.update_layout(height=150 + 24 * len(rows))
        title = "Pooled alignment" + ("" if split == "all" else f", {visible(split)}")
        return _laid_out(figure, title, "pooled alignment with the ideal gradient", "")

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
        methods = list(dict.fromkeys(arm.method for arm in curves))
        for arm, points in curves.items():
            colour = self._colours()[arm.teacher]
            dashed = DASHES[methods.index(arm.method) % len(DASHES)]
            trusted = [point for point in points if point.trusted]
            beyond = [*trusted[-1:], *(point for point in points if not point.trusted)]
            for some, ends in ((trusted, False), (beyond, True)):
                if len(some) < 1 + ends:
                    continue
                start = [] if ends else [0.0]
                figure.add_scatter(
                    x=[*start, *(p.steps for p in some)],
                    y=[*start, *(p.gain.value for p in some)],
                    name=visible(str(arm)) + (" (trust ends)" if ends else ""),
                    mode="lines+markers", legendgroup=str(arm), showlegend=not ends,
                    line={"color": colour, "dash": "dot" if ends else dashed},
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
        for correct, name, pattern in ((True, "correct", ""), (False, "incorrect", "/")):
            figure.add_histogram(
                x=own.loc[own["correct"] == correct, "cosine"].dropna(),
                name=name,
                marker={"color": self._colours()[arm.teacher], "pattern": {"shape": pattern}},
                xbins={"start": -1, "end": 1.0001, "size": 0.1},
            )
        figure.update_layout(barmode="stack")
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
        for teacher in rows["teacher"].unique():
            own = rows[rows["teacher"] == teacher].set_index("split")
            own = own.reindex([f"{kind}:{name}" for name in names])
            figure.add_scatter(
                x=list(names), y=own["pooled"], name=visible(teacher or "(no teacher)"),
                mode="lines+markers", marker={"size": 8},
                line={"color": self._colours()[teacher]}, error_y=_bars(own),
            )  # fmt: skip
        figure.add_hline(0, line_color="grey", line_width=1)
        return _laid_out(
            figure, f"Pooled alignment of {visible(method)}", title, "pooled alignment"
        )

    def _colours(self) -> dict[str, str]:
        return teacher_colours(self._report.summary["teacher"])

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
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    return figure
