"""What targeted continuations and spines say of a token: mean outcomes, discounted returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradalign.methods.base import Reasons
from gradalign.methods.batch import Continuations, NodeBatch, SpineView
from gradalign.methods.distributions import Distributions, Floats, Ints
from gradalign.methods.sampled import SampledToken

WINDOW_TOKENS = 1 << 18
"""Tokens gathered at a time, so that they stay in the processor's cache."""


class Outcomes:
    """Averages of what continuations brought, by the token that they started with.

    Slots that no continuation started with, and the tail, get the mean over those that some did,
    weighted by the student's probability. They then add nothing of their own: what the
    direction is on the visited slots after `restrict` does not depend on it.

    Args:
        nodes: the distributions whose slots are meant.
        rolled: the continuations.
    """

    def __init__(self, nodes: Distributions, rolled: Continuations) -> None:
        self._shape = nodes.log_p_NS.shape
        flat_K = rolled.node_K * self._shape[1] + rolled.slot_K
        # U: the (node, slot) pairs that some continuation started with
        self._flat_U, self._pair_K = np.unique(flat_K, return_inverse=True)
        self._count_U = np.bincount(self._pair_K, minlength=self._flat_U.size)
        self._node_U = self._flat_U // self._shape[1]
        log_U = nodes.log_p_NS.reshape(-1)[self._flat_U]
        largest_N = np.full(self._shape[0], -np.inf)
        np.maximum.at(largest_N, self._node_U, log_U)
        with np.errstate(invalid="ignore"):
            weight_U = np.exp(log_U - largest_N[self._node_U])
        total_N = np.bincount(self._node_U, weights=weight_U, minlength=self._shape[0])
        self._share_U = weight_U / total_N[self._node_U]

    @property
    def reason_N(self) -> Reasons:
        """Set where no continuation passed the node at all."""
        reason_N: Reasons = np.full(
            self._shape[0], "undefined_method:no continuation passed the node", dtype=object
        )
        reason_N[self._node_U] = ""
        return reason_N

    def mean(self, value_K: Floats) -> tuple[Floats, Floats]:
        """Return the mean value per slot and that of the tail, [N, S] and [N]."""
        mean_U = self._mean_U(value_K)
        middle_N = self._middle_N(mean_U)
        mean_NS: Floats = np.repeat(middle_N, self._shape[1]).reshape(self._shape)
        mean_NS.reshape(-1)[self._flat_U] = mean_U
        return mean_NS, middle_N

    def elsewhere(self, value_K: Floats) -> Floats:
        """Return the mean value of the slots without continuations and of the tail, [N]."""
        return self._middle_N(self._mean_U(value_K))

    def at_seen(self, dense_NS: Floats, value_K: Floats) -> None:
        """Write the mean value of each slot that has one into a dense array."""
        dense_NS.reshape(-1)[self._flat_U] = self._mean_U(value_K)

    def _mean_U(self, value_K: Floats) -> Floats:
        total_U = np.bincount(self._pair_K, weights=value_K, minlength=self._flat_U.size)
        with np.errstate(invalid="ignore"):
            return np.asarray(total_U / self._count_U)

    def _middle_N(self, mean_U: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            weight_U = self._share_U * mean_U
        return np.bincount(self._node_U, weights=weight_U, minlength=self._shape[0]).astype(
            np.float64
        )


def discounted_sums(
    log_ratio_T: Floats,
    start_K: Ints,
    stop_K: Ints,
    gamma: float,
    reward: Callable[[Floats], Floats] | None = None,
) -> Floats:
    """Return the sum over windows [start, stop) of gamma^i r_{start + i}, i = 0, 1, ..., [K].

    Every window is summed by itself: an infinite r or a long, barely discounted tail in one
    cannot leak into another, as it would through differences of cumulative sums.

    Args:
        log_ratio_T: r of all tokens, flat.
        start_K: where windows begin, [K].
        stop_K: where they end, [K].
        gamma: the discount.
        reward: what a token's log ratio is turned into first; itself if None.
    """
    length_K = stop_K - start_K
    result_K = np.zeros(start_K.shape)
    used = np.flatnonzero(length_K > 0)
    ends = np.cumsum(length_K[used])
    power_T = gamma ** np.arange(length_K.max(initial=0), dtype=np.float64)
    count_T = np.arange(max(WINDOW_TOKENS, length_K.max(initial=0)))
    first = 0
    while first < used.size:
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + WINDOW_TOKENS, side="right")), first + 1)
        part = used[first:last]
        offset_K = ends[first:last] - length_K[part] - done
        adjacent = np.array_equal(start_K[part][1:], stop_K[part][:-1])
        if not adjacent or gamma != 1.0:
            step_T = np.repeat(-offset_K, length_K[part])
            step_T += count_T[: step_T.size]
        if adjacent:
            value_T = log_ratio_T[start_K[part[0]] : stop_K[part[-1]]]
        else:
            value_T = log_ratio_T[np.repeat(start_K[part], length_K[part]) + step_T]
        if reward is not None:
            value_T = reward(value_T)
        if gamma != 1.0:
            value_T = value_T * power_T[step_T]
        result_K[part] = np.add.reduceat(value_T, offset_K)
        first = last
    return result_K


def geometric_sum(gamma: float, last: Ints) -> Floats:
    """Return 1 + gamma + ... + gamma^last for each element."""
    if gamma == 1.0:
        return np.asarray(last + 1.0)
    return np.asarray(-np.expm1((last + 1.0) * np.log(gamma)) / (1.0 - gamma))


def continuations_of(batch: NodeBatch) -> Continuations:
    """Return the continuations of a batch that is known to have them."""
    assert batch.continuations is not None
    return batch.continuations


def spines_of(batch: NodeBatch) -> SpineView:
    """Return the spines of a batch that is known to have them."""
    assert batch.spines is not None
    return batch.spines


@dataclass(frozen=True)
class FutureReturns(SampledToken):
    """A weight that adds up discounted log ratios of what follows."""

    @property
    def _looks_ahead(self) -> bool:
        return float(getattr(self, "gamma", 0.0)) > 0.0

    @property
    def expected_needs(self) -> frozenset[str]:
        """The teacher, and its scores of continuations unless gamma is 0."""
        ahead = {"continuations", "continuation_scores"} if self._looks_ahead else set()
        return frozenset({"teacher"} | ahead)

    @property
    def sampled_needs(self) -> frozenset[str]:
        """The teacher, and the spine unless gamma is 0."""
        return frozenset({"teacher", "spine"} if self._looks_ahead else {"teacher"})
