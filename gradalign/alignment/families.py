"""All pairs of a family at once: differences with simultaneous intervals and p-values.

The best of many equal arms looks better than it is, and is chosen by the very data that test it.
So a family of comparisons is tested by the largest t statistic over ALL its pairs, whatever the
choice (the single-step max-T of Westfall and Young, "Resampling-Based Multiple Testing", 1993),
and each t is studentised in every resample (the bootstrap-t).
Axes: _Q questions, _A members of a family, _X pairs, _Z resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit  # scipy.stats takes seconds to import

from gradalign.alignment.bootstrap import resample

Floats = npt.NDArray[np.float64]

NUM_RESAMPLES = 10_000
_SEED = 20_240_607


@dataclass(frozen=True)
class PairTest:
    """One member of a family against another, first minus second.

    Attributes:
        first, second: indices of the members.
        value: the difference.
        se: its standard error over questions.
        low, high: its interval, simultaneous over all pairs of the family.
        p_value: two-sided, of no difference, for all pairs of the family together.
    """

    first: int
    second: int
    value: float
    se: float
    low: float
    high: float
    p_value: float


def compare_all(
    values: npt.ArrayLike,
    influence: npt.ArrayLike,
    pairs: Sequence[tuple[int, int]] | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> list[PairTest]:
    """Compare members of a family by the largest t statistic over its pairs.

    The same resamples serve every family of as many questions, so a pair's p-value never falls
    when a family grows.

    Args:
        values: each member's estimate, [A].
        influence: how far each question moves it, [Q, A]: sums to 0 over questions, and
            Q / (Q - 1) sum of squares is the variance of the estimate.
        pairs: which to compare, by index; all by default.
        level: coverage of the intervals, all together.
        num_resamples: of questions, drawn with replacement.

    Returns:
        One test per pair, in order. NaN where either estimate is, or with fewer than 2 questions;
        such pairs are no part of the family.

    Raises:
        ValueError: shapes differ.
    """
    value_A = np.asarray(values, dtype=np.float64)
    psi_QA = np.asarray(influence, dtype=np.float64)
    if psi_QA.ndim != 2 or psi_QA.shape[1:] != value_A.shape:
        raise ValueError(f"need values [A], influence [Q, A], got {value_A.shape}, {psi_QA.shape}")
    if pairs is None:
        members = len(value_A)
        pairs = [(i, j) for i in range(members) for j in range(i + 1, members)]
    first = np.array([i for i, _ in pairs], dtype=np.int64)
    second = np.array([j for _, j in pairs], dtype=np.int64)
    tests = compare_pairs(
        value_A[first] - value_A[second],
        psi_QA[:, first] - psi_QA[:, second],
        level=level,
        num_resamples=num_resamples,
    )
    return [replace(test, first=i, second=j) for test, (i, j) in zip(tests, pairs, strict=True)]


def compare_pairs(
    differences: npt.ArrayLike,
    influence: npt.ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> list[PairTest]:
    """The same for differences that are there already; `first` and `second` are -1.

    Args:
        differences: of each pair, [X].
        influence: how far each question moves it, [Q, X]; see `compare_all`.
        level: coverage of the intervals, all together.
        num_resamples: of questions, drawn with replacement.
    """
    difference = np.asarray(differences, dtype=np.float64)
    psi_QX = np.asarray(influence, dtype=np.float64)
    if psi_QX.ndim != 2 or psi_QX.shape[1:] != difference.shape:
        raise ValueError(f"need [X] and [Q, X], got {difference.shape}, {psi_QX.shape}")
    count = len(psi_QX)
    known = np.isfinite(difference) & (count >= 2) & np.isfinite(psi_QX).all(axis=0)
    se = np.full(len(difference), np.nan)
    if count >= 2:
        se = np.sqrt(count / (count - 1) * (psi_QX**2).sum(axis=0))
    apart = known & (se > 0)
    alone = float(stdtrit(max(count - 1, 1), (1.0 + level) / 2))
    limit_Z = _limits(psi_QX[:, apart], num_resamples)
    # A comparison that is the only one is Student's; in company it is never surer than that.
    limit = max(alone, float(limit_Z[min(int(level * num_resamples), num_resamples - 1)]))
    out = []
    for index in range(len(difference)):
        value, spread = float(difference[index]), float(se[index])
        if not known[index]:
            out.append(PairTest(-1, -1, value, math.nan, math.nan, math.nan, math.nan))
        elif not apart[index]:  # the same on every question
            out.append(PairTest(-1, -1, value, 0.0, value, value, 0.0 if value else 1.0))
        else:
            half = limit * spread if math.isfinite(limit) else math.nan
            beyond = num_resamples - int(np.searchsorted(limit_Z, abs(value) / spread))
            p_value = max(
                float(2 * stdtr(count - 1, -abs(value) / spread)),
                (beyond + 1) / (num_resamples + 1) if apart.sum() > 1 else 0.0,
            )
            out.append(PairTest(-1, -1, value, spread, value - half, value + half, p_value))
    return out


def _limits(psi_QX: Floats, num_resamples: int) -> Floats:
    """Return the largest |t| over all pairs in each resample where no pair differs, in order, [Z].

    Each pair's t is divided by its own standard error in that resample. That keeps the level with
    few questions and heavy tails, where one question carries much of both.
    """
    count, pairs = psi_QX.shape
    if pairs < 2:
        return np.zeros(num_resamples)
    # Deviations are sums over drawn questions, as psi_QX sums to 0 over questions.
    unit_QX = psi_QX / np.sqrt((psi_QX**2).sum(axis=0))
    both = np.concatenate([unit_QX, unit_QX**2], axis=1)
    drawn = resample(both, num_resamples, np.random.default_rng(_SEED))
    sum_ZX, square_ZX = drawn[:, :pairs], drawn[:, pairs:]
    var_ZX = count / (count - 1) * (square_ZX - sum_ZX**2 / count)
    moved_ZX = np.abs(sum_ZX) > 1e-12
    # One question drawn again and again has no spread: nothing is sure by such a resample.
    t_ZX = np.where(var_ZX > 1e-12, np.abs(sum_ZX) / np.sqrt(np.maximum(var_ZX, 1e-12)), np.inf)
    return np.asarray(np.sort(np.where(moved_ZX, t_ZX, 0.0).max(axis=1)))
