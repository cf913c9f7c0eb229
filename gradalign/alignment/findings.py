"""What may be said of a number: its value where the questions settle it, else how far it is open.

The one way from per-question sums to what a table, a page, a verdict or a condition holds, so
that a number has one interval everywhere. Axes: _Q questions, _Y sums.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gradalign.alignment.fieller import (
    RatioSet,
    pooled_influence,
    pooled_set,
    ratio_set,
    with_opposite,
)
from gradalign.alignment.scores import POOLING, ZERO_NORM, pooled_of_sums, why_unpooled
from gradalign.estimates import UNKNOWN, Estimate

Floats = npt.NDArray[np.float64]

TOO_FEW = "too few questions"
"""Why a number that could be computed is not given."""

PART_QUESTIONS = 30
"""Of parts of the tokens in fewer questions no value is given, however narrow its interval: at 24
questions one that looks narrow held the truth in 77 % only (`benchmarks/interval_coverage.py`)."""

FARTHEST = 1.0
"""No cosine lies further from 0."""


def cosine_finding(found: RatioSet, se: float = math.nan) -> Estimate:
    """Return a cosine, or a mean of some, as it may be printed.

    Args:
        found: the estimate and the values that the questions do not rule out.
        se: its standard error.

    Returns:
        The value with its interval where that is bounded and not wider than `WIDEST` to either
        side; otherwise no value, and the interval cut to what a cosine can be.
    """
    if found.known:
        return Estimate(found.value, found.low, found.high, se)
    return Estimate(math.nan, max(found.low, -FARTHEST), min(found.high, FARTHEST))


def pooled_finding(sums: npt.ArrayLike, *, part: bool = False, level: float = 0.95) -> Estimate:
    """Return a pooled alignment, as it may be printed.

    Args:
        sums: per-question sums of `pooling_columns`, [Q, Y], of questions with a node.
        part: of some of the tokens: the interval allows for a question that was not drawn and
            disagrees; see `with_opposite`.
        level: coverage.

    Returns:
        See `cosine_finding`; nothing, without an interval, where there is no direction or no
        position with a choice to make.
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    if not len(sums_QY) or not _has_lengths(sums_QY.sum(axis=0)):
        return UNKNOWN
    found = (with_opposite if part else pooled_set)(sums_QY, level=level)
    finding = cosine_finding(found, spread(pooled_influence(sums_QY)))
    if part and len(sums_QY) < PART_QUESTIONS and finding.low < finding.high:
        return Estimate(math.nan, finding.low, finding.high)
    return finding


def mean_finding(sums: npt.ArrayLike, *, level: float = 0.95) -> Estimate:
    """Return a mean of cosines, as it may be printed; 0 where only rounding is left of it.

    Args:
        sums: per question, the sum of the cosines and their number, [Q, 2].
        level: coverage.
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    if not sums_QY[:, 1].sum() > 0:
        return UNKNOWN
    found = ratio_set(sums_QY[:, 0], sums_QY[:, 1], level=level)
    low, high = max(found.low, -FARTHEST), min(found.high, FARTHEST)  # no mean lies outside
    if not found.bounded:
        return Estimate(math.nan, low, high)
    value = 0.0 if abs(found.value) <= ZERO_NORM else found.value
    return cosine_finding(RatioSet(value, low, high))


def spread(influence: npt.ArrayLike) -> float:
    """Return the standard error of an estimate from how far each question moves it, [Q]."""
    psi_Q = np.asarray(influence, dtype=np.float64)
    count = len(psi_Q)
    return math.sqrt(count / (count - 1) * float(psi_Q @ psi_Q)) if count > 1 else math.nan


def why_unsaid(sums: npt.ArrayLike, found: Estimate) -> str:
    """Say why a pooled alignment is not given, as a clause; "" where it is.

    Args:
        sums: per-question sums of `pooling_columns`, [Q, Y].
        found: `pooled_finding` of them.
    """
    if found.known:
        return ""
    return why_unpooled(np.asarray(sums, dtype=np.float64).sum(axis=0)) or TOO_FEW


def _has_lengths(total_Y: Floats) -> bool:
    """Whether there is anything to find: a direction, and a choice to make."""
    if math.isfinite(float(pooled_of_sums(total_Y))) or len(total_Y) != POOLING:
        return True
    return bool(total_Y[3] > 0 and total_Y[4] > 0)
