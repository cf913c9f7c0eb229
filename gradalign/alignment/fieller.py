"""Ratios of sums over questions, with Fieller's confidence set.

A pooled alignment is D / sqrt(A B), a mean is a sum over a sum of weights, a cosine of the weights
is a ratio of means over pairs. Each is numerator over denominator, both sums over
independent questions. Fieller's set is {r : |D - r S| <= t se(D - r S)}: it holds at any noise in
the denominator, and is unbounded where that could be 0 (Fieller, "Some Problems in Interval
Estimation", JRSS B 16, 1954). It needs no resampling, no seed and no order of questions.

A few questions often carry most of D - r S, and then its t is skewed: of dozens of questions the
set misses far more often on one side. So each side has the t at which Hall's transformation, which
takes the skewness out, reaches the quantile ("On the Removal of Skewness by Transformation",
JRSS B 54, 1992). Axes: _Q questions, _Y sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # scipy.stats takes seconds to import

from gradalign.alignment.scores import pooled_of_sums
from gradalign.rounding import is_residue

Floats = npt.NDArray[np.float64]

WIDEST = 0.5
"""Half width of an interval above which its middle is no finding."""

UNSEEN = 0.7
"""How much of a question is taken to be missing in a part of the tokens; with it parts hold the
truth in 90 to 99 % of replicas, of every arm (`benchmarks/interval_coverage.py`)."""

_NOT_SKEWED = 1e-6
"""Skewness over sqrt(Q) below which rounding is larger than what its removal changes."""


@dataclass(frozen=True)
class RatioSet:
    """A ratio and the values that the questions do not rule out.

    Attributes:
        value: numerator over denominator; NaN where the denominator is not positive.
        low, high: ends of the set; infinite where it is unbounded.
    """

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the denominator is surely not 0."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def known(self) -> bool:
        """Whether the value may be printed: a bounded set, at most `WIDEST` to either side."""
        return self.bounded and (self.high - self.low) / 2 <= WIDEST


UNKNOWN = RatioSet(math.nan, -math.inf, math.inf)


def fieller_set(
    numerator: float,
    denominator: float,
    variances: tuple[float, float, float],
    reach: float,
) -> tuple[float, float]:
    """Return the ends of {r : (N - r D)^2 <= reach^2 Var(N - r D)}.

    Args:
        numerator: N, an estimate.
        denominator: D, an estimate.
        variances: Var(N), Cov(N, D), Var(D).
        reach: the largest |t| that is not ruled out.

    Returns:
        (-inf, inf) where D is not surely above 0: the set is then all numbers or two rays.
    """
    of_n, both, of_d = variances
    square = denominator**2 - reach**2 * of_d
    half = numerator * denominator - reach**2 * both
    rest = numerator**2 - reach**2 * of_n
    root = half**2 - square * rest
    if not (denominator > 0 and square > 0 and root >= 0):
        return -math.inf, math.inf
    return (half - math.sqrt(root)) / square, (half + math.sqrt(root)) / square


def ratio_set(
    numerator: npt.ArrayLike,
    denominator: npt.ArrayLike,
    *,
    level: float = 0.95,
    skewed: bool = True,
) -> RatioSet:
    """Return sum over sum of per-question parts, with its set.

    Where one is the same multiple of the other in every question, the ratio has no error.

    Args:
        numerator: what each question adds to one, [Q].
        denominator: to the other, [Q].
        level: coverage.
        skewed: whether each side allows for the skewness of the questions.
    """
    n_Q, d_Q = (np.asarray(x, dtype=np.float64) for x in (numerator, denominator))
    count, n, d = len(n_Q), float(n_Q.sum()), float(d_Q.sum())
    value = n / d if d > 0 else math.nan
    if count < 2 or math.isnan(value):
        return RatioSet(value, -math.inf, math.inf)
    if is_residue(n_Q - value * d_Q, np.abs(n_Q) + np.abs(value * d_Q)).all() and value:
        return RatioSet(value, value, value)  # an identity: so many times as much in every question
    below = above = float(stdtrit(count - 1, (1.0 + level) / 2))
    if skewed:
        below, above = skewed_reaches(n_Q - value * d_Q, level)
    n_Q, d_Q = n_Q - n / count, d_Q - d / count
    scale = count / (count - 1)
    variances = (scale * float(n_Q @ n_Q), scale * float(n_Q @ d_Q), scale * float(d_Q @ d_Q))
    low, _ = fieller_set(n, d, variances, above)  # where N - r D is as far above 0 as may be
    _, high = fieller_set(n, d, variances, below)
    return RatioSet(value, low, high)


def skewed_reaches(residuals: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return how far below and above 0 the t of a sum may be, both positive.

    Hall's transformation of t for Q questions with skewness g,
    h(t) = t + g (t^2 / 3 + 1 / 6) / sqrt(Q) + g^2 t^3 / (27 Q), is near to Student's; its inverse
    at Student's quantiles is returned.

    Args:
        residuals: what each question adds to the sum, less its mean, [Q].
        level: between the two.
    """
    u_Q = np.asarray(residuals, dtype=np.float64)
    count = len(u_Q)
    quantile = float(stdtrit(count - 1, (1.0 + level) / 2))
    square = float((u_Q**2).mean())
    skew = float((u_Q**3).mean()) / square**1.5 / math.sqrt(count) if square > 0 else 0.0
    if abs(skew) < _NOT_SKEWED:
        return quantile, quantile
    below, above = (
        3.0 / skew * (math.cbrt(1.0 + skew * (z - skew / 6.0)) - 1.0) for z in (-quantile, quantile)
    )
    return -below, above


def farther_reaches(residuals: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return `skewed_reaches`, each at least Student's quantile.

    Where a few questions carry most of a sum, those that were drawn tell little of the skewness:
    it may widen an interval, and narrow none.

    Args:
        residuals: what each question adds to the sum, less its mean, [Q].
        level: between the two.
    """
    quantile = float(stdtrit(len(np.asarray(residuals)) - 1, (1.0 + level) / 2))
    below, above = skewed_reaches(residuals, level)
    return max(below, quantile), max(above, quantile)


def pooled_set(sums: npt.ArrayLike, *, level: float = 0.95, skewed: bool = True) -> RatioSet:
    """Return the pooled alignment with its set.

    The denominator sqrt(A B) is taken to first order, e_q = (a_q B + b_q A) / (2 sqrt(A B)), which
    sums to it.

    Args:
        sums: per-question sums of `pooling_columns`, [Q, Y].
        level: coverage.
        skewed: whether each side allows for the skewness of the questions.
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    value = float(pooled_of_sums(sums_QY.sum(axis=0))) if len(sums_QY) else math.nan
    if math.isnan(value):
        return UNKNOWN
    dot_Q, length_Q = pooled_parts(sums_QY)
    found = ratio_set(dot_Q, length_Q, level=level, skewed=skewed)
    return RatioSet(value, found.low, found.high)


def pooled_parts(sums_QY: Floats) -> tuple[Floats, Floats]:
    """Return what each question adds to D and, to first order, to sqrt(A B), both [Q]."""
    ideal, method = float(sums_QY[:, 1].sum()), float(sums_QY[:, 2].sum())
    length = math.sqrt(ideal * method)
    return sums_QY[:, 0], (sums_QY[:, 1] * method + sums_QY[:, 2] * ideal) / (2.0 * length)


def with_opposite(sums: npt.ArrayLike, *, level: float = 0.95) -> RatioSet:
    """Return the pooled alignment of a split, allowing for one question that was not drawn.

    In a part of the tokens most questions agree and a rare one disagrees strongly: where it was
    not drawn, no interval knows of it. So the ends are those with one more question that points
    straight away (for the low end) or straight along (for the high end). Its squared lengths are
    `UNSEEN` of the size-biased means, mean(x^2) / mean(x): far above the means where some
    questions are much larger than others, so that a larger one may be missing. Skewness is not
    looked at: its estimate knows nothing of the rare question either, and the one more would be
    all of it.

    Args:
        sums: per-question sums of `pooling_columns`, [Q, Y].
        level: coverage.
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    found = pooled_set(sums_QY, level=level, skewed=False)
    if not found.bounded or found.low == found.high:  # nothing is open, or all is
        return found
    mean_Y = np.abs(sums_QY).mean(axis=0)
    size_Y = UNSEEN * (sums_QY**2).mean(axis=0) / np.where(mean_Y > 0, mean_Y, 1.0)
    ends = []
    for sign in (-1.0, 1.0):
        row_Y = size_Y.copy()
        row_Y[0] = sign * math.sqrt(size_Y[1] * size_Y[2])
        ends.append(pooled_set(np.vstack([sums_QY, row_Y]), level=level, skewed=False))
    return RatioSet(found.value, min(found.low, ends[0].low), max(found.high, ends[1].high))


def pooled_influence(sums: npt.ArrayLike) -> Floats:
    """Return how far each question moves the pooled alignment, [Q]; they sum to 0.

    psi_q = d_q / sqrt(A B) - r (a_q / A + b_q / B) / 2. The variance of the alignment is
    Q / (Q - 1) times the sum of their squares.

    Args:
        sums: per-question sums of `pooling_columns`, [Q, Y].
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    total_Y = sums_QY.sum(axis=0)
    value = float(pooled_of_sums(total_Y))
    if math.isnan(value):
        return np.full(len(sums_QY), np.nan)
    dot_Q, length_Q = pooled_parts(sums_QY)
    return np.asarray((dot_Q - value * length_Q) / math.sqrt(total_Y[1] * total_Y[2]))
