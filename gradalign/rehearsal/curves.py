"""Rehearsed success over the steps of a training, and how far it is to be trusted.

Axes: _Q questions, _R responses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit  # scipy.stats takes seconds to import

from gradalign.estimates import Arm, Estimate
from gradalign.rehearsal.trials import effective_share

Floats = npt.NDArray[np.float64]

LEAST_SHARE = 0.25
"""Below this share of responses left in effect, the stored ones no longer stand for new ones."""

MOST_OUTSIDE = 0.05
"""Above this probability of a token that was no candidate, what it leads to is not known."""

STILL = "half of the questions share no update: take more of them"
"""Why a rehearsal says nothing where an arm does not move the student."""

COLUMNS = (
    "teacher",
    "method",
    "steps",
    *("gain", "gain_low", "gain_high"),
    *("success", "success_low", "success_high"),
    "first_order",
    "effective",
    "outside",
    "divergence",
    "trusted",
    "why",
)
"""Of a table of points; see `Point`."""


@dataclass(frozen=True, eq=False)
class Point:
    """An arm after some steps.

    Attributes:
        steps: of training.
        gain: of success, with a 95% interval over questions.
        success: rehearsed, likewise.
        first_order: what the steps gain to first order; NaN where that is not known.
        effective: share of responses left in effect.
        outside: by how much likelier a response became to take a token that was no candidate.
        divergence: KL(P || P') of a whole response, nats.
        why: why it is not trusted; empty where it is.
        influence_Q: how far each question moves the gain, [Q]: by what it says of the moved
            student, and by its part in moving it, to first order.
    """

    steps: int
    gain: Estimate
    success: Estimate
    first_order: float
    effective: float
    outside: float
    divergence: float
    why: str
    influence_Q: Floats

    @property
    def estimate(self) -> Estimate:
        """The gain of the training, with an interval that counts which questions trained too."""
        count = len(self.influence_Q)
        if count < 2:
            return Estimate(self.gain.value)
        se = math.sqrt(count / (count - 1) * float(self.influence_Q @ self.influence_Q))
        half = float(stdtrit(count - 1, 0.975)) * se
        return Estimate(self.gain.value, self.gain.value - half, self.gain.value + half, se)

    @property
    def moves(self) -> bool:
        """Whether both halves of the questions have an update to follow."""
        return self.why != STILL

    @property
    def trusted(self) -> bool:
        """Whether it is inside the trusted range."""
        return not self.why


def curves_of(rehearsals: pd.DataFrame, reward: pd.Series) -> dict[Arm, list[Point]]:
    """Return every arm's points, in order of their steps.

    Args:
        rehearsals: the table `rehearsals`.
        reward: mean reward of every question's responses, by question id.
    """
    found: dict[Arm, list[Point]] = {}
    questions = sorted(set(rehearsals["question_id"].astype(str)))
    for (teacher, method), own in rehearsals.groupby(["teacher", "method"], observed=True):
        points: list[Point] = []
        for steps, rows in own.groupby("steps"):
            rows = (
                rows.set_index(rows["question_id"].astype(str))
                .reindex(questions)
                .dropna(subset=["gain"])
            )
            why = points[-1].why if points else ""
            points.append(_point(int(str(steps)), rows, reward, questions, why))
        found[Arm(str(teacher), str(method))] = points
    return found


def _point(
    steps: int, rows: pd.DataFrame, reward: pd.Series, questions: list[str], why: str
) -> Point:
    gain_Q = rows["gain"].to_numpy(dtype=np.float64)
    before_Q = reward.reindex(rows.index).to_numpy(dtype=np.float64)
    effective = effective_share(np.concatenate(rows["ratios"].to_list()).astype(np.float64))
    outside, divergence = float(rows["outside"].mean()), float(rows["divergence"].mean())
    training_Q = rows["training"].to_numpy(dtype=np.float64)
    influence = pd.Series((gain_Q - gain_Q.mean()) / len(gain_Q) + training_Q, index=rows.index)
    return Point(
        steps=steps,
        gain=mean_of(gain_Q),
        success=_as_chance(mean_of((gain_Q + before_Q)[np.isfinite(before_Q)])),
        first_order=float(rows["first_order"].mean()),
        effective=effective,
        outside=outside,
        divergence=divergence,
        why=why or (STILL if (rows["moved"] == 0.0).any() else why_not_trusted(effective, outside)),
        influence_Q=influence.reindex(questions, fill_value=0.0).to_numpy(),
    )


def why_not_trusted(effective: float, outside: float) -> str:
    """Say why a moved student is no longer judged by the stored responses; empty if it is."""
    if not effective >= LEAST_SHARE:
        return f"effective sample size {effective:.0%} of the responses"
    if outside > MOST_OUTSIDE:
        return f"blind: {outside:.0%} of responses take tokens that no rollout was made of"
    return ""


def mean_of(value_Q: Floats) -> Estimate:
    """Return a mean over questions with its 95% interval."""
    count = len(value_Q)
    if count < 2:
        return Estimate(float(value_Q[0]) if count else math.nan)
    se = float(value_Q.std(ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, 0.975)) * se
    mean = float(value_Q.mean())
    return Estimate(mean, mean - half, mean + half, se)


def _as_chance(value: Estimate) -> Estimate:
    """Cut an interval to [0, 1]."""
    low, high = (min(max(end, 0.0), 1.0) for end in (value.low, value.high))
    return Estimate(value.value, low, high, value.se)


def table_of(curves: Mapping[Arm, Sequence[Point]]) -> pd.DataFrame:
    """Return points as a table, a row each."""
    return pd.DataFrame(
        [
            {
                "teacher": arm.teacher,
                "method": arm.method,
                "steps": point.steps,
                **point.gain.columns("gain", "gain_"),
                **point.success.columns("success", "success_"),
                "first_order": point.first_order,
                "effective": point.effective,
                "outside": point.outside,
                "divergence": point.divergence,
                "trusted": point.trusted,
                "why": point.why,
            }
            for arm, points in curves.items()
            for point in points
        ],
        columns=COLUMNS,
    )


def trusted_steps(curves: Mapping[Arm, Sequence[Point]], arms: Sequence[Arm]) -> int | None:
    """Return the largest number of steps at which all of some arms are trusted; None for none.

    Arms that do not move the student are left out: they have no value at any number of steps.
    """
    known = [curves[arm] for arm in arms if curves.get(arm) and curves[arm][0].moves]
    trusted = [{point.steps for point in points if point.trusted} for points in known]
    shared = set.intersection(*trusted) if trusted else set()
    return max(shared, default=None)
