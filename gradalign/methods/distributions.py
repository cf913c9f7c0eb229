"""Student and teacher next-token distributions at one temperature, and sets of top tokens.

Everything that several methods need is computed once here and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradalign.errors import UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Side = Literal["student", "teacher"]
Support = Literal["student", "teacher", "union", "intersection"]


@dataclass(frozen=True, eq=False)
class Distributions:
    """P (student) and Q (teacher) at N nodes, sparse with one tail bucket.

    Attributes:
        log_p_NS, log_q_NS: natural-log probabilities of the tokens kept, -inf at padding, [N, S].
        mask_NS: True where the slot holds a token, [N, S].
        log_tail_p_N, log_tail_q_N: log of the mass outside the support, -inf if none, [N].
        num_tail_N: number of vocabulary tokens outside the support, [N].
        top_limit: the support surely holds this many of each model's most probable tokens.
        temperature: what both models' logits were divided by.
    """

    log_p_NS: Floats
    log_q_NS: Floats
    mask_NS: Bools
    log_tail_p_N: Floats
    log_tail_q_N: Floats
    num_tail_N: Ints
    top_limit: int
    temperature: float = 1.0
    _tops: dict[tuple[str, int], Bools] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def p_NS(self) -> Floats:
        """Student probabilities, 0 at padding."""
        return np.exp(self.log_p_NS)

    @cached_property
    def q_NS(self) -> Floats:
        """Teacher probabilities, 0 at padding."""
        return np.exp(self.log_q_NS)

    @cached_property
    def tail_p_N(self) -> Floats:
        """Student mass outside the support."""
        return np.exp(self.log_tail_p_N)

    @cached_property
    def tail_q_N(self) -> Floats:
        """Teacher mass outside the support."""
        return np.exp(self.log_tail_q_N)

    @cached_property
    def r_NS(self) -> Floats:
        """Log ratio log(Q/P); 0 where P is 0, where every use of it has weight 0."""
        return _log_ratio(self.log_q_NS, self.log_p_NS)

    @cached_property
    def tail_r_N(self) -> Floats:
        """Log ratio of the two tail masses; 0 where the student has no tail."""
        return _log_ratio(self.log_tail_q_N, self.log_tail_p_N)

    @cached_property
    def anchor_N(self) -> Ints:
        """Slot of the student's most probable token."""
        return np.asarray(self.log_p_NS.argmax(axis=1))

    @cached_property
    def rest_p_N(self) -> Floats:
        """Student mass of everything but the most probable token, without cancellation."""
        return self.mass_besides(self.anchor_N)

    @cached_property
    def rest_p2_N(self) -> Floats:
        """Sum of squared student probabilities but the largest, the tail spread evenly."""
        others_NS = self.p_NS**2
        others_NS[self.rows, self.anchor_N] = 0.0
        tail = self.tail_p_N**2 / np.maximum(self.num_tail_N, 1)
        return np.asarray(others_NS.sum(axis=1) + tail)

    @cached_property
    def sum_p2_N(self) -> Floats:
        """Sum of squared student probabilities over the vocabulary, the tail spread evenly."""
        return np.asarray(self.rest_p2_N + self.p_NS[self.rows, self.anchor_N] ** 2)

    @cached_property
    def unit_N(self) -> Floats:
        """Size of P (f - fbar) when f varies by one: what "zero up to rounding" is relative to."""
        return np.asarray(self.rest_p_N * np.exp(self.log_p_NS.max(axis=1, initial=-np.inf)))

    @cached_property
    def rows(self) -> Ints:
        """0, 1, ..., N - 1: to index one slot per node."""
        return np.arange(self.log_p_NS.shape[0])

    def mass_besides(self, slot_N: Ints) -> Floats:
        """Student mass of everything but one slot of each node, summed without cancellation."""
        others_NS = self.p_NS.copy()
        others_NS[self.rows, slot_N] = 0.0
        return np.asarray(others_NS.sum(axis=1) + self.tail_p_N)

    def tempered(self, temperature: float, powers: tuple[Floats, Floats] | None) -> Distributions:
        """Return softmax(log p / T) of both models.

        Args:
            temperature: T > 0.
            powers: log of the sum over the tail of p^(1/T) and of q^(1/T), each [N]; without
                it the tail's mass is spread evenly over its tokens.
        """
        sides = []
        for log_NS, log_tail_N, index in (
            (self.log_p_NS, self.log_tail_p_N, 0),
            (self.log_q_NS, self.log_tail_q_N, 1),
        ):
            if powers is None:
                count_N = np.log(np.maximum(self.num_tail_N, 1))
                power_N = count_N + (log_tail_N - count_N) / temperature
            else:
                power_N = np.asarray(powers[index], dtype=np.float64)
            sides.append(log_normalise(log_NS / temperature, power_N))
        (log_p_NS, tail_p_N), (log_q_NS, tail_q_N) = sides
        return Distributions(
            log_p_NS=log_p_NS,
            log_q_NS=log_q_NS,
            mask_NS=self.mask_NS,
            log_tail_p_N=tail_p_N,
            log_tail_q_N=tail_q_N,
            num_tail_N=self.num_tail_N,
            top_limit=self.top_limit,
            temperature=temperature,
        )

    def top(self, side: Side, k: int) -> Bools:
        """Mark the k most probable tokens of one model; equal ones in order of slot.

        A node with fewer than k tokens has them all marked.

        Raises:
            UsageError: the support is not sure to hold the k most probable tokens.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if k > self.top_limit and bool(self.num_tail_N.any()):
            raise UsageError(
                f"top_k={k} needs the {k} most probable tokens, but only {self.top_limit} of each "
                "model's were kept.",
                f"Use top_k <= {self.top_limit}, or keep more tokens when scoring.",
            )
        if (side, k) not in self._tops:
            log_NS = self.log_p_NS if side == "student" else self.log_q_NS
            self._tops[side, k] = self._first(log_NS, self._ordered(side), k)
        return self._tops[side, k]

    def top_set(self, support: Support, k: int) -> Bools:
        """Mark the set of tokens that a truncated loss is restricted to."""
        if support == "union":
            return self.top("student", k) | self.top("teacher", k)
        if support == "intersection":
            return self.top("student", k) & self.top("teacher", k)
        return self.top(support, k)

    @cached_property
    def _ordered_student(self) -> Floats:
        return np.sort(np.where(self.mask_NS, self.log_p_NS, -np.inf), axis=1)

    @cached_property
    def _ordered_teacher(self) -> Floats:
        return np.sort(np.where(self.mask_NS, self.log_q_NS, -np.inf), axis=1)

    def _ordered(self, side: Side) -> Floats:
        return self._ordered_student if side == "student" else self._ordered_teacher

    def _first(self, log_NS: Floats, ordered_NS: Floats, k: int) -> Bools:
        width = log_NS.shape[1]
        if k >= width:
            return self.mask_NS
        least_N1 = ordered_NS[:, width - k, None]
        chosen_NS = log_NS >= least_N1
        chosen_NS &= self.mask_NS
        # Only where the next value is as large are there more than k.
        crowded_N = np.flatnonzero(ordered_NS[:, width - k - 1] == least_N1[:, 0])
        if crowded_N.size:
            equal_XS = (log_NS[crowded_N] == least_N1[crowded_N]) & self.mask_NS[crowded_N]
            above_XS = chosen_NS[crowded_N] & ~equal_XS
            missing_X = k - np.count_nonzero(above_XS, axis=1)
            first_XS = equal_XS & (np.cumsum(equal_XS, axis=1) <= missing_X[:, None])
            chosen_NS[crowded_N] = above_XS | first_XS
        return np.asarray(chosen_NS)


def log_normalise(logits_NS: Floats, log_tail_N: Floats | None = None) -> tuple[Floats, Floats]:
    """Subtract the log of the total mass from log weights and from the log weight of a tail.

    The largest weight is left out of the sum and put back by log1p, so that the log
    probability of a token that has nearly all the mass keeps its relative precision.

    Returns:
        Log probabilities [N, S] and the tail's log probability [N].
    """
    num_nodes = logits_NS.shape[0]
    tail_N = np.full(num_nodes, -np.inf) if log_tail_N is None else log_tail_N
    if logits_NS.shape[1] == 0:
        return logits_NS, np.zeros(num_nodes)
    top_N = logits_NS.argmax(axis=1)
    rows = np.arange(num_nodes)
    largest_N = logits_NS[rows, top_N]
    shifted_NS = logits_NS - largest_N[:, None]
    weights_NS = np.exp(shifted_NS)
    weights_NS[rows, top_N] = 0.0
    rest_N = weights_NS.sum(axis=1) + np.exp(tail_N - largest_N)
    log_total_N = np.log1p(rest_N)
    shifted_NS -= log_total_N[:, None]
    return shifted_NS, np.asarray(tail_N - largest_N - log_total_N)


def _log_ratio(log_q: Floats, log_p: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        ratio = np.subtract(log_q, log_p)
    ratio[log_p == -np.inf] = 0.0
    return np.asarray(ratio)
