"""All pairs of a family at once: differences with simultaneous intervals and p-values.

The best of many equal arms looks better than it is, and is chosen by the very data that test it.
So a family of comparisons is tested by the largest t statistic over ALL its pairs, whatever the
choice, and each t is studentised in every resample (the bootstrap-t). Pairs that differ are taken
out from the largest on, and the rest is judged by the largest t over the rest: the step-down
max-T of Westfall and Young, "Resampling-Based Multiple Testing", 1993, algorithm 2.8; Romano and
Wolf, Econometrica 73 (2005), algorithm 4.1. It is the closed test of all subsets, so a further
pair never lowers a p-value.
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
        low, high: its interval, simultaneous over all pairs of the family. It ends at 0 where
            only a later step tells the difference from 0.
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
    """Compare members of a family by the largest t statistic over its pairs, step by step.

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
    t_X = np.abs(difference[apart]) / se[apart]
    order = np.argsort(t_X)  # the least surely different first
    limit_ZX = _limits(psi_QX[:, apart][:, order], num_resamples)
    p_X = np.full(len(difference), np.nan)
    p_X[np.flatnonzero(apart)[order]] = _step_down(t_X[order], limit_ZX, count)
    # A comparison that is the only one is Student's; in company it is never surer than that.
    reach = float(stdtrit(max(count - 1, 1), (1.0 + level) / 2))
    if apart.sum() > 1:
        largest_Z = np.sort(limit_ZX[:, -1])
        reach = max(reach, float(largest_Z[min(int(level * num_resamples), num_resamples - 1)]))
    out = []
    for index in range(len(difference)):
        value, spread = float(difference[index]), float(se[index])
        if not known[index]:
            out.append(PairTest(-1, -1, value, math.nan, math.nan, math.nan, math.nan))
        elif not apart[index]:  # the same on every question
            out.append(PairTest(-1, -1, value, 0.0, value, value, 0.0 if value else 1.0))
        else:
            half = reach * spread if math.isfinite(reach) else math.nan
            low, high, p_value = value - half, value + half, float(p_X[index])
            if p_value < 1.0 - level:  # no difference is ruled out, whichever step did it
                low, high = (max(low, 0.0), high) if value > 0 else (low, min(high, 0.0))
            out.append(PairTest(-1, -1, value, spread, low, high, p_value))
    return out


def _step_down(t_X: Floats, limit_ZX: Floats, count: int) -> Floats:
    """Return adjusted p-values, [X], of |t| in increasing order, from `_limits` in that order.

    A pair is judged among those that are no surer than itself; none is surer than a pair before.
    """
    num_resamples, pairs = limit_ZX.shape
    p_X = 2.0 * stdtr(count - 1, -t_X)
    if pairs > 1:
        beyond_X = (limit_ZX >= t_X).sum(axis=0)
        # The last one that is left has no company.
        beyond_X[0] = 0
        joint_X = (beyond_X + 1) / (num_resamples + 1)
        p_X[1:] = np.maximum(p_X[1:], joint_X[1:])
        p_X = np.maximum.accumulate(p_X[::-1])[::-1]
    return np.asarray(p_X)


def _limits(psi_QX: Floats, num_resamples: int) -> Floats:
    """Return the largest |t| over each pair and those before it, where none differs, [Z, X].

    Each pair's t is divided by its own standard error in that resample. That keeps the level with
    few questions and heavy tails, where one question carries much of both.
    """
    count, pairs = psi_QX.shape
    if pairs < 2:
        return np.zeros((num_resamples, pairs))
    # Deviations are sums over drawn questions, as psi_QX sums to 0 over questions.
    unit_QX = psi_QX / np.sqrt((psi_QX**2).sum(axis=0))
    both = np.concatenate([unit_QX, unit_QX**2], axis=1)
    drawn = resample(both, num_resamples, np.random.default_rng(_SEED))
    sum_ZX, square_ZX = drawn[:, :pairs], drawn[:, pairs:]
    var_ZX = count / (count - 1) * (square_ZX - sum_ZX**2 / count)
    moved_ZX = np.abs(sum_ZX) > 1e-12
    # One question drawn again and again has no spread: nothing is sure by such a resample.
    t_ZX = np.where(var_ZX > 1e-12, np.abs(sum_ZX) / np.sqrt(np.maximum(var_ZX, 1e-12)), np.inf)
    return np.asarray(np.maximum.accumulate(np.where(moved_ZX, t_ZX, 0.0), axis=1))
