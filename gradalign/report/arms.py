"""Which arms stand out, and how their teachers are named and coloured, everywhere alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.report.node_scores import arms_in
from gradalign.report.terminal.tables import short_names
from gradalign.report.verdict import role_of

if TYPE_CHECKING:
    import pandas as pd

COLOURS = ("#148a86", "#8a5fc9", "#a5770f", "#c4487f", "#4e8f3c", "#5b7fb0", "#a8604a")
"""Colours of teachers: each has a contrast above 3 to white and to the page's dark ground."""

LONGEST_IN_FIGURE = 40
"""Letters of a teacher's name at an axis; longer ones are replaced by their last part."""

NO_TEACHER_COLOUR = "#7a7a7a"

AWAY, TOWARDS = "#c9522c", "#1f5fad"
"""Colours of tokens and directions that lead away from success, and towards it."""

DIVERGING = ((0.0, AWAY), (0.5, "#f4f1ea"), (1.0, TOWARDS))
"""Colours of a cosine, by (cosine + 1) / 2."""


def teacher_colours(teachers: Iterable[str]) -> dict[str, str]:
    """Return the colour of every teacher.

    Args:
        teachers: all of a run, in the order of its summary; may repeat. "" is no teacher.
    """
    named = [name for name in dict.fromkeys(teachers) if name]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(named)}
    return {**colours, "": NO_TEACHER_COLOUR}


def marked(teacher: str) -> str:
    """Return what is put behind the name of a teacher that was told something false."""
    return " (control)" if role_of(Arm(teacher, "")) == "control" else ""


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


def shown_arm(summary: pd.DataFrame) -> Arm:
    """Return the best arm, or where none can be said to be, the first that looks at a teacher."""
    rows = summary[summary["split"] == "all"]
    led = _led(summary)
    if led["pooled"].notna().any():
        return best_arm(summary)
    return arms_in(led if len(led) else rows)[0]


ROLES = ("candidate", "control", "reference")
"""What arms are in a comparison, in the order in which tables and figures have them."""


def ranked(summary: pd.DataFrame, split: str = "all") -> pd.DataFrame:
    """Return a split's rows with their `role`: candidates, controls, references, best first.

    Args:
        summary: a run's.
        split: one of its splits.

    Raises:
        UsageError: the summary has no such split.
    """
    rows = summary[summary["split"] == split]
    if not len(rows):
        raise UsageError(f"no split {split!r} in this run.", "See report.summary['split'].")
    roles = [role_of(arm) for arm in map(Arm, rows["teacher"], rows["method"])]
    rows = rows.assign(role=roles, place=[ROLES.index(role) for role in roles])
    rows = rows.sort_values(["place", "pooled"], ascending=[True, False], kind="stable")
    return rows.drop(columns="place").reset_index(drop=True)


def arm_names(rows: pd.DataFrame) -> list[str]:
    """Return METHOD @ TEACHER of every row, with the last part of long teachers' names."""
    short = short_names(rows["teacher"].unique(), LONGEST_IN_FIGURE)
    return [
        f"{row['method']} @ {short.get(row['teacher'], row['teacher'])}"
        if row["teacher"]
        else row["method"]
        for row in rows.to_dict("records")
    ]
