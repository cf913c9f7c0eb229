"""Intervals and comparisons: cluster bootstrap over questions.

Nodes of one question share continuations, a prompt and a difficulty; questions are independent. So
everything is summed per question first, and questions are resampled. Axes: _Q questions, _K sums,
_B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as t_dist

from gradalign.alignment.scores import pooled_limit, pooled_of_sums
from gradalign.estimates import Difference, Estimate
from gradalign.rounding import difference as settled_difference

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

# Resampled index blocks of about this many entries keep memory low and stay in cache.
_BLOCK = 1 << 20

MOST_MISSING = 0.025
"""Share of resamples without a value above which what is left of them has no spread to report."""


CARRIED = 0.2
"""Resamples lack a question with probability (1 - 1/Q)^Q, 0.25 to 0.37: at least this share has no
value if there is none without it."""


def question_sums(
    question: npt.ArrayLike, columns: npt.ArrayLike, weight: npt.ArrayLike | None = None
) -> Floats:
    """Sum weighted node columns per question, [Q, K], questions in sorted order.

    Args:
        question: which question each node belongs to, [N], any sortable labels.
        columns: what to sum, [N, K].
        weight: 1 / inclusion probability, [N]; 1 by default.
    """
    columns_NK = np.asarray(columns, dtype=np.float64)
    labels, index_N = np.unique(np.asarray(question), return_inverse=True)
    if columns_NK.ndim != 2 or index_N.shape != columns_NK.shape[:1]:
        raise ValueError(
            f"need question [N] and columns [N, K], got {index_N.shape}, {columns_NK.shape}"
        )
    weight_N = np.ones(len(index_N)) if weight is None else np.asarray(weight, dtype=np.float64)
    sums_QK = np.zeros((len(labels), columns_NK.shape[1]))
    np.add.at(sums_QK, index_N, columns_NK * weight_N[:, None])
    return sums_QK


def cluster_bootstrap(
    sums: npt.ArrayLike,
    statistic: Statistic,
    *,
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Estimate:
    """Percentile interval of a statistic of per-question sums, widened for few questions.

    Args:
        sums: per-question sums, [Q, K].
        statistic: maps summed columns [..., K] to values [...], e.g. `pooled_of_sums`.
        seed: of the resampling generator.
        num_resamples: bootstrap resamples.
        level: coverage.
    """
    sums_QK = np.asarray(sums, dtype=np.float64)
    shape = _Shape.of(sums_QK, statistic, num_resamples, seed)
    if shape is None:
        return Estimate(float(statistic(sums_QK.sum(axis=0))))
    return Estimate(shape.estimate, *shape.ends(level), shape.se)


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    statistic: Statistic,
    *,
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Difference:
    """Difference of a statistic between two teachers or methods on the same nodes.

    Both are resampled together, so what makes a question hard for both cancels. The p-value is
    1 - the level at which the interval would just touch 0.

    Args:
        first: per-question sums of one, [Q, K].
        second: of the other, [Q, K], the same questions in the same order.
        statistic: as in `cluster_bootstrap`.
        seed: of the resampling generator.
        num_resamples: bootstrap resamples.
        level: coverage of the interval.

    Raises:
        ValueError: shapes differ.
    """
    first_QK, second_QK = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first_QK.shape != second_QK.shape:
        raise ValueError(f"both must be [Q, K], got {first_QK.shape} and {second_QK.shape}")
    width = first_QK.shape[1]

    def of(single: Statistic) -> Statistic:
        def difference(sums: Floats) -> Floats:
            return settled_difference(single(sums[..., :width]), single(sums[..., width:]))

        return difference

    difference = of(statistic)
    both_QK = np.concatenate((first_QK, second_QK), axis=1)
    shape = _Shape.of(both_QK, difference, num_resamples, seed, of(_limit_of(statistic)))
    if shape is None:
        return Difference(float(difference(both_QK.sum(axis=0))))
    return Difference(shape.estimate, *shape.ends(level), shape.se, shape.p_value())


@dataclass(frozen=True, eq=False)
class _Shape:
    """A bootstrap distribution, and how much wider than it an interval has to be.

    A percentile interval has the right shape but is too narrow with few clusters: it uses normal
    quantiles and a spread that is too small by sqrt((Q - 1) / Q), and resampling a skewed sample
    understates how far the next sample may lie. So its levels are taken out to where a t
    distribution with Q - 1 degrees of freedom has them (the expanded percentile interval of
    Hesterberg, "What Teachers Should Know About the Bootstrap", arXiv 1411.5279), and its ends are
    moved away from the estimate by the ratio of the jackknife's standard error to the
    bootstrap's, if it is above 1. In simulations with 10 to 50 questions this covered 93 to 95 %
    where percentile and BCa intervals covered 86 to 93 %.

    A resample may have no value. If it is known on which side of all others it lies (see
    `pooled_limit`), it is counted there; otherwise it could be anything, and counts at minus
    infinity for the low end and at infinity for the high end. So a few of them widen the interval
    a little, and many leave one end, or both, unknown. Leaving them out would make it too narrow,
    most where the ideal gradient is hardly above its noise.

    Attributes:
        values_B: the statistic over resamples; infinite where only its side is known, NaN where
            nothing is.
        missing: share of resamples that are not finite.
        carried: whether one question carries the estimate: without it there is none.
        estimate: the statistic of all questions.
        se: the larger of the bootstrap's and the jackknife's standard error.
        widening: `se` over the bootstrap's standard error.
        num_questions: Q.
    """

    values_B: Floats
    missing: float
    carried: bool
    estimate: float
    se: float
    widening: float
    num_questions: int

    @classmethod
    def of(
        cls,
        sums_QK: Floats,
        statistic: Statistic,
        num_resamples: int,
        seed: int,
        limit: Statistic | None = None,
    ) -> _Shape | None:
        """Resample; None where there is nothing to resample or no estimate."""
        count, estimate = len(sums_QK), float(statistic(sums_QK.sum(axis=0)))
        if count < 2 or not np.isfinite(estimate):
            return None
        in_resamples = limit or _limit_of(statistic)
        values_B = in_resamples(_resample(sums_QK, num_resamples, seed))
        finite_B = values_B[np.isfinite(values_B)]
        if len(finite_B) == 0:
            return None
        missing = 1.0 - len(finite_B) / len(values_B)
        spread = float(finite_B.std()) * np.sqrt(count / (count - 1))
        without_Q = statistic(sums_QK.sum(axis=0) - sums_QK)
        known_Q = np.isfinite(without_Q)
        jackknife = (
            float(without_Q[known_Q].std()) * np.sqrt(count - 1) if known_Q.any() else np.nan
        )
        widening = 1.0
        if np.isfinite(jackknife) and spread > 0:
            widening = max(1.0, jackknife / spread)
        return cls(
            values_B=values_B,
            missing=missing,
            carried=missing > CARRIED and not bool(known_Q.all()),
            estimate=estimate,
            se=float(spread * widening) if missing <= MOST_MISSING else np.nan,
            widening=widening,
            num_questions=count,
        )

    def ends(self, level: float) -> tuple[float, float]:
        """The interval at a level; an end that resamples without a value hide is NaN."""
        if self.carried:
            return np.nan, np.nan
        shares = _percentiles(level, self.num_questions)
        low, high = quantile_ends(self.values_B, *shares) - self.estimate
        return (
            float(self.estimate + low * self.widening),
            float(self.estimate + high * self.widening),
        )

    def p_value(self) -> float:
        """1 - the level at which the interval would just touch 0."""
        count = self.num_questions
        edge = self.estimate * (1.0 - 1.0 / self.widening)
        # What has no value may lie on either side: the larger p-value of the two counts.
        unknown = float(np.mean(np.isnan(self.values_B)))
        below = 0.5 * float(np.mean(self.values_B < edge) + np.mean(self.values_B <= edge))
        below = min(max(0.5, below), below + unknown)
        # One more resample on each side: B resamples cannot tell a p-value from 0.
        share = (below * len(self.values_B) + 1.0) / (len(self.values_B) + 2.0)
        reach = abs(float(norm.ppf(share))) * np.sqrt((count - 1) / count)
        return float(2.0 * t_dist.sf(reach, count - 1))


@lru_cache(maxsize=1024)  # a run has hundreds of intervals over as many questions
def _percentiles(level: float, count: int) -> tuple[float, float]:
    """Return the shares of resamples below the two ends of an interval over `count` questions."""
    reach = np.sqrt(count / (count - 1)) * t_dist.ppf((1.0 + level) / 2, count - 1)
    low, high = norm.cdf([-reach, reach])
    return float(low), float(high)


def quantile_ends(values_B: Floats, low: float, high: float) -> Floats:
    """Return two quantiles, [2]; each NaN where it falls on resamples without a finite value.

    Args:
        values_B: values of resamples; infinite where only their side is known, NaN where nothing
            is: that counts at minus infinity for the low one, at infinity for the high one.
        low: share below the low one.
        high: share below the high one.
    """
    if np.isfinite(values_B).all():
        return np.asarray(np.quantile(values_B, [low, high]))
    unknown_B = np.isnan(values_B)
    ends = np.array(
        [
            np.quantile(np.where(unknown_B, -np.inf, values_B), low, method="lower"),
            np.quantile(np.where(unknown_B, np.inf, values_B), high, method="higher"),
        ]
    )
    return np.where(np.isfinite(ends), ends, np.nan)


def _limit_of(statistic: Statistic) -> Statistic:
    """Return the form of a statistic that says on which side a resample without a value lies."""
    return pooled_limit if statistic is pooled_of_sums else statistic


def resample(sums_QK: Floats, num_resamples: int, rng: np.random.Generator) -> Floats:
    """Sums over questions drawn with replacement, [B, K]."""
    count = len(sums_QK)
    return np.concatenate([times @ sums_QK for times in _multiplicities(count, num_resamples, rng)])


def _resample(sums_QK: Floats, num_resamples: int, seed: int) -> Floats:
    """Resample with a seed's generator; few questions' draws are kept for the next statistic."""
    count = len(sums_QK)
    if count * num_resamples > _BLOCK:
        return resample(sums_QK, num_resamples, np.random.default_rng(seed))
    return np.asarray(_kept_multiplicities(count, num_resamples, seed) @ sums_QK)


@lru_cache(maxsize=4)  # of 8 MB at most
def _kept_multiplicities(count: int, num_resamples: int, seed: int) -> Floats:
    (times_BQ,) = _multiplicities(count, num_resamples, np.random.default_rng(seed))
    return times_BQ


def _multiplicities(count: int, num_resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each question is in each resample, block by block, [B, Q]."""
    rows = max(1, _BLOCK // count)
    for begin in range(0, num_resamples, rows):
        size = min(rows, num_resamples - begin)
        drawn = rng.integers(0, count, size=(size, count), dtype=np.int32)
        drawn += np.arange(size, dtype=np.int32)[:, None] * np.int32(count)
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times.astype(np.float64)
