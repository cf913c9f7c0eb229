"""Does anything cheap predict alignment? Rank correlations under resampling of questions.

Ranks are taken anew in every resample, so that an interval accounts for them. Axes: _B resamples,
_N nodes, _Q questions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Entries of [resamples, nodes] handled at a time.
_BLOCK = 1 << 20


def rank_correlation(
    first_N: npt.ArrayLike, second_N: npt.ArrayLike, question_N: npt.ArrayLike, num_questions: int
) -> Callable[[npt.ArrayLike], Floats]:
    """Return Spearman's correlation as a statistic of how often each question is drawn.

    The result maps multiplicities [..., Q] to correlations [...], NaN where either side is
    constant; with `cluster_bootstrap` of an identity matrix it gives an interval over questions.
    Equal values share the mean of their ranks, equal within a question or by being drawn twice.

    Args:
        first_N: one variable at each node, finite, [N].
        second_N: the other, [N].
        question_N: number of each node's question, 0 to Q - 1, [N].
        num_questions: Q.

    Raises:
        ValueError: shapes differ.
    """
    x_N, y_N = np.asarray(first_N, dtype=np.float64), np.asarray(second_N, dtype=np.float64)
    at_N = np.asarray(question_N, dtype=np.int64)
    if not x_N.shape == y_N.shape == at_N.shape or x_N.ndim != 1:
        raise ValueError(f"need three arrays [N], got {x_N.shape}, {y_N.shape} and {at_N.shape}")
    x_order, x_begin, x_group_N = _groups(x_N)
    y_order, y_begin, y_group_N = _groups(y_N)
    at_x_N, at_y_N = at_N[x_order], at_N[y_order]
    # Everything is laid out in order of x; ranks of y are fetched from their own order.
    group_x_N, group_y_N = x_group_N[x_order], y_group_N[x_order]

    def block(times_BQ: Floats) -> Floats:
        weight_BN = times_BQ[:, at_x_N]
        x_BG, x_scale_B = _middles(weight_BN, x_begin)
        y_BG, y_scale_B = _middles(times_BQ[:, at_y_N], y_begin)
        cross_B = np.einsum("bn,bn,bn->b", weight_BN, x_BG[:, group_x_N], y_BG[:, group_y_N])
        scale_B = x_scale_B * y_scale_B
        # A constant variable has ranks that vary by rounding only.
        there_B = scale_B > 1e-18 * weight_BN.sum(axis=1) ** 6
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(there_B, cross_B / np.sqrt(scale_B), np.nan)

    def statistic(times: npt.ArrayLike) -> Floats:
        times_XQ = np.asarray(times, dtype=np.float64)
        times_BQ = times_XQ.reshape(-1, num_questions)
        rows = max(1, _BLOCK // max(len(at_N), 1))
        parts = [block(times_BQ[i : i + rows]) for i in range(0, len(times_BQ), rows)]
        return np.concatenate(parts).reshape(times_XQ.shape[:-1])

    return statistic


def _groups(values_N: Floats) -> tuple[Ints, Ints, Ints]:
    """Return the rising order, where each group of equal values begins in it, and its number."""
    order = np.argsort(values_N, kind="stable")
    ordered_N = values_N[order]
    fresh_N = np.r_[True, ordered_N[1:] != ordered_N[:-1]][: len(ordered_N)]
    group_N = np.empty(len(order), dtype=np.int64)
    group_N[order] = np.cumsum(fresh_N) - 1
    return order, np.flatnonzero(fresh_N), group_N


def _middles(ordered_BN: Floats, begin_G: Ints) -> tuple[Floats, Floats]:
    """Return the centred mid-rank of each group of equal values, and their weighted square sum.

    With total weight W and groups of weight W_g that sum is (W^3 - sum of W_g^3) / 12.

    Args:
        ordered_BN: weights in rising order of the values, [B, N].
        begin_G: where each group begins, [G].
    """
    groups = len(begin_G)
    weight_BG = np.add.reduceat(ordered_BN, begin_G, axis=1) if groups else ordered_BN
    total_BG = np.cumsum(weight_BG, axis=1)
    total_B = total_BG[:, -1] if groups else np.zeros(len(ordered_BN))
    middle_BG = total_BG - weight_BG / 2 - total_B[:, None] / 2
    return middle_BG, (total_B**3 - (weight_BG**3).sum(axis=1)) / 12
