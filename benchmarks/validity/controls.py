"""What a run says of teachers told something false, useless or nothing, against their trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gradalign
from gradalign.contexts import FALSE, REFERENCE_FREE
from gradalign.diagnostics.predictors import correlate
from gradalign.estimates import Arm, Estimate
from gradalign.report.node_scores import read_scores
from gradalign.report.verdict.bases import Basis, bases_of
from gradalign.report.verdict.families import compare_together
from gradalign.report.verdict.recommendation import context_of, is_told

Row = Mapping[str, Any]
"""A configuration of the results: its teacher, method, gain, and what the tool says of it."""

NUMBER = "gain_one"
"""Of a row: what the tool ranks by, its gain per step on one question."""


def best_methods(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Return every teacher's best row, by what was `said` before and by what was `gained`."""
    known = [row for row in rows if row["teacher"] and math.isfinite(row.get(NUMBER, math.nan))]
    return {
        teacher: {
            "said": max(own, key=lambda row: row[NUMBER]),
            "gained": max(own, key=lambda row: row["gain"]),
        }
        for teacher in dict.fromkeys(row["teacher"] for row in known)
        if (own := [row for row in known if row["teacher"] == teacher])
    }


def against_controls(report: gradalign.Report, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Hold every teacher of the student's told something false or useless against all others.

    Each teacher stands for its best method: of what is said the one with the largest gain per
    step, of trainings the one that gained most. `ahead` is whether the control's gain per step is
    surely above the other's, paired by question, as a verdict says it: together with all of these
    comparisons. `ahead_alone` is the same of this one alone, as are the ends. No verdict goes by
    either, because it takes these teachers for controls and names none of them.

    Args:
        report: the scored run.
        rows: configurations of the results.
    """
    basis, best = _basis(report), best_methods(rows)
    controls = [teacher for teacher in best if context_of(teacher) in FALSE]
    pairs = [(control, other) for control in controls for other in best if other not in controls]
    if not pairs:
        return []
    arms = [tuple([_arm(best[name]["said"])] for name in pair) for pair in pairs]
    together = compare_together([basis.contrast(*item) for item in arms], pairs, 0.95)
    found = []
    for (control, other), (first, second), family in zip(pairs, arms, together, strict=True):
        said = _compared(basis, first, second)
        found.append(
            {
                "control": control,
                "other": other,
                "methods": [first[0].method, second[0].method],
                **said.columns("said", "said_"),
                "ahead": family.value > 0 and family.significant(0.95),
                "ahead_alone": said.low > 0,
                **_gained([best[control]["gained"]], [best[other]["gained"]]),
            }
        )
    return found


def information(report: gradalign.Report, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what is left of each told teacher without `reference-free`, said and gained.

    Over the methods that both have: the told teacher's mean, that of the same words without what
    is told, and their difference. What `reference-free` has is what the words alone explain.

    Args:
        report: the scored run.
        rows: configurations of the results.
    """
    basis = _basis(report)
    at = {_arm(row): row for row in rows}
    teachers = list(dict.fromkeys(row["teacher"] for row in rows if row["teacher"]))
    (free,) = [teacher for teacher in teachers if context_of(teacher) == REFERENCE_FREE] or [""]
    found = []
    for teacher in (name for name in teachers if free and is_told(name)):
        methods = [
            arm.method for arm in at if arm.teacher == teacher and Arm(free, arm.method) in at
        ]
        own, plain = ([Arm(name, method) for method in methods] for name in (teacher, free))
        found.append(
            {
                "teacher": teacher,
                "methods": methods,
                "said_told": basis.contrast(own).value,
                "said_free": basis.contrast(plain).value,
                **_compared(basis, own, plain).columns("said", "said_"),
                **_gained([at[arm] for arm in own], [at[arm] for arm in plain]),
            }
        )
    return found


def verdict(report: gradalign.Report, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the run's own verdict, with what its leader and the best teacher gained."""
    found = report.recommend()
    best = best_methods(rows)
    gained = {teacher: float(item["gained"]["gain"]) for teacher, item in best.items()}
    leader = found.teacher or ""
    return {
        "verdict": found.verdict,
        "teacher": leader,
        "methods": list(found.methods),
        "headline": found.headline,
        "gained": gained.get(leader),
        "most_gained": max(gained, key=lambda name: gained[name]),
    }


def position_alone(report: gradalign.Report) -> list[dict[str, Any]]:
    """Rank-correlate the position in a response with alignment, over the nodes of every arm.

    `cosine` is the node's alignment on the logits, `weights_dot` what its update in the weights
    does for success. Position is the same for every teacher and ranks none of them.
    """
    nodes = report.nodes[["node_id", "relative_position"]].astype({"node_id": str})
    frame = report.alignment.astype({"node_id": str, "teacher": str, "method": str})
    frame = frame[frame["teacher"] != ""].drop(columns="position")
    frame = frame.merge(nodes.rename(columns={"relative_position": "position"}), on="node_id")
    found = []
    for (teacher, method), own in frame.groupby(["teacher", "method"], sort=False):
        row: dict[str, Any] = {"teacher": teacher, "method": method}
        for target in ("cosine", "weights_dot"):
            held = own.assign(cosine=own[target])
            estimate = correlate(held, "position", seed=0, num_resamples=200).estimate
            row |= estimate.columns(target, f"{target}_")
        found.append(row)
    return found


def _basis(report: gradalign.Report) -> Basis:
    """Return the gain per step: rehearsals are not trusted for every control."""
    bases = bases_of(report, read_scores(report))
    return next((basis for basis in bases if basis.name == "weights_gain_one"), bases[0])


def _arm(row: Row) -> Arm:
    return Arm(row["teacher"], row["method"])


def _compared(basis: Basis, first: Sequence[Arm], second: Sequence[Arm]) -> Estimate:
    (found,) = compare_together([basis.contrast(first, second)], [("", "")], 0.95)
    return Estimate(*found.span)


def _gained(first: Sequence[Row], second: Sequence[Row]) -> dict[str, float | None]:
    """Return the difference of mean gains in training; its standard error, None for one seed."""
    sides = [sum(row["gain"] for row in rows) / len(rows) for rows in (first, second)]
    squares = [
        math.nan if row["gain_se"] is None else (row["gain_se"] / len(rows)) ** 2
        for rows in (first, second)
        for row in rows
    ]
    error = math.sqrt(sum(squares))
    return {
        "gained_first": sides[0],
        "gained_second": sides[1],
        "gained": sides[0] - sides[1],
        "gained_se": error if math.isfinite(error) else None,
    }
