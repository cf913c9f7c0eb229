"""What the diagnostics say to do, the gravest first, and said once for all whom it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from gradalign.diagnostics.base import Consequence
from gradalign.estimates import Arm
from gradalign.report.verdict import role_of

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    Consequence.CHANGE_TEACHER: "Another teacher, or another context",
    Consequence.CHANGE_LOSS: "Another loss, or other tokens",
    Consequence.COULD_GAIN: "Something to gain",
    Consequence.MORE_DATA: "More data would tell",
}
"""Consequences that are shown, the gravest first."""

_FIGURE = re.compile(r"[+-]?\d[\d,.]*%?(?: \[[^\]]*\])?(?<![.,])")
"""A number in a sentence, with its interval if it has one."""


@dataclass(frozen=True)
class Finding:
    """Advice, and whom it is about.

    Attributes:
        mechanism: the diagnostic that gives it.
        teachers: whom it is about; empty names are the student.
        text: what to do. Where teachers differ in a number, it has all of theirs, in this order.
        consequence: what follows from it.
    """

    mechanism: str
    teachers: tuple[str, ...]
    text: str
    consequence: Consequence


def findings(summary: pd.DataFrame) -> list[Finding]:
    """Return what calls for something to be done, the gravest first.

    Nothing is to be done about a teacher that was told something false, where there are others.

    Args:
        summary: the table `diagnostics_summary`. Of a run that does not hold consequences all
            advice is returned.
    """
    rows = summary[(summary["split"].astype(str) == "all") & (summary["advice"].astype(str) != "")]
    alike: dict[tuple[int, str, tuple[str, ...]], dict[str, str]] = {}
    teachers = summary["teacher"].astype(str).unique()
    controls = {name for name in teachers if role_of(Arm(name, "")) == "control"}
    if controls >= set(teachers) - {""}:
        controls = set()
    for row in rows[~rows["teacher"].astype(str).isin(controls)].to_dict("records"):
        known = row["consequence"] == row["consequence"] and row["consequence"] is not None
        consequence = int(row["consequence"]) if known else int(Consequence.MORE_DATA)
        text = str(row["advice"])
        key = (-consequence, str(row["mechanism"]), tuple(_FIGURE.split(text)))
        said = alike.setdefault(key, {})
        teacher = str(row["teacher"])
        # Twice from one teacher: two findings of one wording, such as of two methods.
        said[teacher] = f"{said[teacher]} {text}" if teacher in said else text
    return [
        Finding(mechanism, tuple(said), _merged(list(said.values())), Consequence(-rank))
        for (rank, mechanism, _), said in sorted(alike.items(), key=lambda item: item[0][0])
        if -rank != Consequence.NOTHING
    ]


def by_consequence(found: list[Finding]) -> list[tuple[str, list[Finding]]]:
    """Group findings under the title of their consequence."""
    groups = groupby(found, key=lambda item: item.consequence)
    return [(TITLES[consequence], list(items)) for consequence, items in groups]


def whom(finding: Finding, teachers: int) -> str:
    """Say whom a finding is about.

    Args:
        finding: it.
        teachers: how many teachers the run has.
    """
    named = [teacher or "the student" for teacher in finding.teachers]
    if len(named) == teachers > 1 and all(finding.teachers):
        return f"all {teachers} teachers"
    return ", ".join(named)


def _merged(texts: list[str]) -> str:
    """Make one sentence of sentences that differ in their numbers only."""
    between = _FIGURE.split(texts[0])
    numbers = [_FIGURE.findall(text) for text in texts]
    out = between[0]
    for place, after in enumerate(between[1:]):
        own = list(dict.fromkeys(found[place] for found in numbers))
        out += " / ".join(own) + after
    return out
