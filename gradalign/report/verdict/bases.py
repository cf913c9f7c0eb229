"""The numbers that arms are ranked by, the one that predicts training best first.

A basis gives every arm a value, and every difference of two groups of arms an influence per
question, from which families of comparisons are tested together. Axes: _A arms, _Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from gradalign.alignment import pooled_of_sums
from gradalign.alignment.fieller import pooled_influence
from gradalign.alignment.findings import pooled_finding
from gradalign.estimates import UNKNOWN, Arm, Estimate
from gradalign.rehearsal.curves import trusted_steps
from gradalign.report.node_scores import Bools, NodeScores
from gradalign.report.verdict.evidence import Evidence, evidence_of
from gradalign.report.verdict.recommendation import role_of

if TYPE_CHECKING:
    from gradalign.report.report import Report

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Contrast:
    """One group of arms minus another, each the mean over its arms.

    Attributes:
        value: the difference; NaN where an arm has no value.
        influence_Q: how far each question moves it, [Q]; 0 where a question has no part in it.
        num_nodes: nodes behind it.
    """

    value: float
    influence_Q: Floats
    num_nodes: int


class Basis(Protocol):
    """What arms are ranked by.

    Attributes:
        name: the summary's column.
        words: what it is, for a sentence.
        evidence: how it did on pairs of models that were trained.
        tells_told: whether a teacher that was told the answer may be compared with one that was
            not: it agrees with the answer at every token, which training does not reward alike.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def words(self) -> str:
        """See the class."""
        ...

    @property
    def evidence(self) -> Evidence:
        """See the class."""
        ...

    @property
    def tells_told(self) -> bool:
        """See the class."""
        ...

    def estimate(self, arm: Arm, level: float) -> Estimate:
        """Return an arm's value with its interval, as a table shows it."""
        ...

    def contrast(self, first: Sequence[Arm], second: Sequence[Arm] = ()) -> Contrast:
        """Compare two groups of arms, paired by question; the second may be nothing, which is 0."""
        ...


@dataclass(frozen=True, eq=False)
class Gain:
    """First-order gain of a step of length 1, from the run's summary.

    Attributes:
        estimates: of every arm that has one.
        influences: of the same, [Q], in one order of questions.
        name, words, tells_told: see Basis.
    """

    estimates: Mapping[Arm, Estimate]
    influences: Mapping[Arm, Floats]
    name: str
    words: str
    tells_told: bool = True

    @property
    def evidence(self) -> Evidence:
        """See Basis."""
        return evidence_of(self.name)

    def estimate(self, arm: Arm, level: float) -> Estimate:
        """See Basis; the summary's interval, whatever the level."""
        return self.estimates.get(arm, UNKNOWN)

    def contrast(self, first: Sequence[Arm], second: Sequence[Arm] = ()) -> Contrast:
        """See Basis."""
        size = len(next(iter(self.influences.values()), ()))
        value, influence_Q = 0.0, np.zeros(size)
        for arms, sign in ((first, 1.0), (second, -1.0)):
            for arm in arms:
                if arm not in self.influences:
                    return Contrast(np.nan, np.full(size, np.nan), 0)
                value += sign * self.estimates[arm].value / len(arms)
                influence_Q = influence_Q + sign * self.influences[arm] / len(arms)
        return Contrast(value, influence_Q, 0)


@dataclass(frozen=True, eq=False)
class Pooled:
    """Pooled alignment, on the nodes that all arms of a comparison have.

    Attributes:
        scores: the run's nodes.
    """

    scores: NodeScores
    name: str = "pooled"
    words: str = "pooled alignment"
    tells_told: bool = False

    @property
    def evidence(self) -> Evidence:
        """See Basis."""
        return evidence_of(self.name)

    def estimate(self, arm: Arm, level: float) -> Estimate:
        """See Basis."""
        return pooled_finding(own_sums(self.scores, arm), level=level)

    def contrast(self, first: Sequence[Arm], second: Sequence[Arm] = ()) -> Contrast:
        """See Basis."""
        scores = self.scores
        both_N = scores.there(*first, *second)
        with_nodes_Q = np.bincount(scores.question_N[both_N], minlength=len(scores.questions)) > 0
        value, influence_Q = 0.0, np.zeros(len(with_nodes_Q))
        for arms, sign in ((first, 1.0), (second, -1.0)):
            for arm in arms:
                sums_QY = scores.sums(arm, both_N)[with_nodes_Q]
                value += sign * float(pooled_of_sums(sums_QY.sum(axis=0))) / len(arms)
                influence_Q[with_nodes_Q] += sign * pooled_influence(sums_QY) / len(arms)
        return Contrast(value, influence_Q, int(both_N.sum()))


def own_sums(scores: NodeScores, arm: Arm, inside_N: Bools | None = None) -> Floats:
    """Return the sums of the questions that have such a node, [Q, POOLING]."""
    there_N = scores.there(arm) if inside_N is None else scores.there(arm) & inside_N
    sums_QY = scores.sums(arm, there_N)
    return sums_QY[np.bincount(scores.question_N[there_N], minlength=len(sums_QY)) > 0]


def bases_of(report: Report, scores: NodeScores) -> list[Basis]:
    """Return what a run can be ranked by, the best predictor first.

    Args:
        report: the run.
        scores: its nodes.
    """
    levels = report.metadata.get("config", {}).get("alignment", ())
    rehearsed = _rehearsed(report, scores.arms)
    gains = [
        Gain(*found, name, words)
        for level, name, influence, words in GAINS
        if level in levels and (found := per_question(report, name, influence)) is not None
    ]
    return [*rehearsed, *gains, Pooled(scores)]


def _rehearsed(report: Report, arms: Sequence[Arm]) -> list[Basis]:
    """Return gains after the most steps at which every candidate's rehearsal is trusted."""
    curves = report.curves
    candidates = [arm for arm in arms if role_of(arm) == "candidate" and arm in curves]
    steps = trusted_steps(curves, candidates)
    if steps is None:
        return []
    points = {
        arm: point
        for arm, own in curves.items()
        for point in own
        if point.steps == steps and point.trusted and math.isfinite(point.estimate.se)
    }
    return [
        Gain(
            {arm: point.estimate for arm, point in points.items()},
            {arm: point.influence_Q for arm, point in points.items()},
            "rehearsed",
            f"rehearsed gain after {steps} {'step' if steps == 1 else 'steps'}",
        )
    ]


GAINS = (("weights", "weights_gain_one", "weights_one_influence", "gain per step of the weights"),)
"""Gains, the best predictor first: the level of alignment, its column of the summary and of its
influences, and what `Basis` says of it."""


def per_question(
    report: Report, name: str, influence: str
) -> tuple[dict[Arm, Estimate], dict[Arm, Floats]] | None:
    """Return a number of the summary by arm, with its influences, [Q]; None if no arm has it.

    Args:
        report: the run.
        name: column of the summary.
        influence: column of `question_sums`: how far each question moves the number.
    """
    summary = report.summary
    whole = summary[summary["split"] == "all"]
    estimates = {
        Arm(str(row["teacher"]), str(row["method"])): Estimate(
            row[name], row[f"{name}_low"], row[f"{name}_high"]
        )
        for row in whole.to_dict("records")
    }
    sums = report.table("question_sums", ["question_id", "teacher", "method", influence])
    sums = sums.astype({"question_id": str, "teacher": str, "method": str})
    questions = sorted(set(sums["question_id"]))
    influences = {}
    for key, own in sums.groupby(["teacher", "method"]):
        arm = Arm(*map(str, key))
        psi_Q = own.set_index("question_id")[influence].reindex(questions)
        if arm in estimates and estimates[arm].known and own[influence].notna().all():
            influences[arm] = psi_Q.fillna(0.0).to_numpy(dtype=np.float64)
    known = {arm: estimates[arm] for arm in influences}
    return (known, influences) if known else None
