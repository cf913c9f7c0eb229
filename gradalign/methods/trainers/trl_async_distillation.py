"""TRL's asynchronous distillation: as a server's teacher, but the drawn token is always scored.

At beta = 0 the loss is the forward KL on the teacher's top-k and the drawn token y. The weights of
`pulled` are linear in what y adds, so that their average over y has a closed form. Axes: as in the
package; K is the teacher's top-k, S = K and y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Bools, Distributions, Floats
from gradalign.methods.identities import bucketed, divergence, pulled, renormalised
from gradalign.methods.registry import register
from gradalign.methods.sampled import NO_TOKEN, scaled
from gradalign.methods.trainers.trl import LEAST_TAIL
from gradalign.methods.trainers.trl_server_distillation import TRLServerDistillation


@register("trl/async_distillation")
@dataclass(frozen=True)
class TRLAsyncDistillation(TRLServerDistillation):
    """AsyncDistillationTrainer. For beta > 0 it is `trl/server_distillation`.

    At beta = 0, its default, the set is the teacher's `top_k` tokens and the drawn token y, whose
    teacher probability the server returns whatever its rank.
    """

    formula: ClassVar[str] = (
        "beta=0: 1_S Q_j + 1_notS P_j (1 - Q(S)) / (1 - P(S)) - P_j, S the teacher's top-k and y"
        " (tail), q~_j - p~_j on S (no tail); beta>0: as trl/server_distillation"
    )
    source: ClassVar[str] = (
        "TRL 1.16 experimental AsyncDistillationTrainer, async_distillation_trainer.py:193"
        " _jsd_loss_chunk"
    )

    beta: float = option(0.0, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    top_k: int = option(8, "teacher_top_k; looked at for beta=0 only", low=1)

    def __post_init__(self) -> None:
        """Any top_k goes: for beta > 0 the trainer narrows the set by itself."""
        Method.__post_init__(self)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the average over the drawn token, in closed form."""
        if self.beta > 0.0:
            return super().expected(batch)
        nodes = batch.at(self.temperature)
        return scaled(nodes, _Widened(nodes, self.top_k, tail=self.tail).mean(), nodes.unit_N)

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return the direction for the token that was drawn."""
        if self.beta > 0.0:
            return super().sampled(batch)
        nodes = batch.at(self.temperature)
        inside_NS = nodes.top("teacher", self.top_k).copy()
        inside_NS[nodes.rows, np.maximum(batch.sampled_N, 0)] = True
        if self.tail:
            ascent_NS, unit_N = bucketed(nodes, inside_NS, 0.0, LEAST_TAIL), nodes.unit_N
        else:
            ascent_NS, unit_N = renormalised(nodes, inside_NS, 0.0)
        raw = scaled(nodes, ascent_NS, unit_N, np.full(batch.num_nodes, "", dtype=object))
        assert raw.reason_N is not None
        raw.reason_N[batch.sampled_N < 0] = NO_TOKEN
        return raw

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance over the drawn token, summed over the vocabulary, [N]."""
        if self.beta > 0.0:
            return super().squared_deviation(batch)
        nodes = batch.at(self.temperature)
        found = _Widened(nodes, self.top_k, tail=self.tail)
        mean_NS = found.mean()
        mean2_N = np.vecdot(mean_NS, mean_NS)
        mean2_N += mean_NS.sum(axis=1) ** 2 / np.maximum(nodes.num_tail_N, 1)
        spread_N = np.maximum(found.second_moment() - mean2_N, 0.0)
        return np.asarray(spread_N / self.temperature**2)


class _Widened:
    """The forward KL on K and y for every y, and its averages; a tail's tokens are all alike.

    With weights a_j of `pulled`, a_j is Q_j on S and P_j times a ratio outside, which is 0 where
    TRL's clamp makes the student's bucket a constant. Of everything that is taken for each y, [N,
    S] is that of the support's tokens, read outside K only, and [N] that of a token of the tail.
    """

    def __init__(self, nodes: Distributions, top_k: int, *, tail: bool) -> None:
        self.nodes, self.tail = nodes, tail
        self.inside_NS: Bools = nodes.top("teacher", top_k)
        outside_NS = ~self.inside_NS
        self.p_NS = nodes.p_NS * outside_NS
        self.q_NS = nodes.q_NS * outside_NS
        count_N = np.maximum(nodes.num_tail_N, 1)
        self.p_N, self.q_N = nodes.tail_p_N / count_N, nodes.tail_q_N / count_N
        self.out_p_N = self.p_NS.sum(axis=1) + nodes.tail_p_N
        self.out_q_N = self.q_NS.sum(axis=1) + nodes.tail_q_N

    @cached_property
    def in_p_N(self) -> Floats:
        """P(K)."""
        return np.asarray(np.where(self.inside_NS, self.nodes.p_NS, 0.0).sum(axis=1))

    @cached_property
    def in_q_N(self) -> Floats:
        """Q(K)."""
        return np.asarray(np.where(self.inside_NS, self.nodes.q_NS, 0.0).sum(axis=1))

    def mean(self) -> Floats:
        """Return the average of the direction over y, [N, S]."""
        return self._bucket_mean() if self.tail else self._set_mean()

    def second_moment(self) -> Floats:
        """Return the average over y of its squared length, [N]."""
        nodes = self.nodes
        gap_NS = divergence(nodes, 0.0)  # Q - P, exact also where P is nearly 1
        nothing_N1 = np.zeros((nodes.rows.size, 1))
        inside_gap_NS = np.where(self.inside_NS, gap_NS, 0.0)
        inside_p_NS = np.where(self.inside_NS, nodes.p_NS, 0.0)
        products = [
            np.vecdot(left, right)[:, None]
            for left, right in (
                (inside_gap_NS, inside_gap_NS),
                (inside_gap_NS, inside_p_NS),
                (inside_p_NS, inside_p_NS),
            )
        ]
        total_gap_N1 = inside_gap_NS.sum(axis=1)[:, None]

        def length(p: Floats, q: Floats, gap: Floats) -> Floats:
            if self.tail:
                return self._bucket_length(p, q, gap, *products)
            return self._set_length(p, q, gap, total_gap_N1, *products)

        first_N = length(nothing_N1, nothing_N1, nothing_N1)[:, 0]
        each_NS = length(self.p_NS, self.q_NS, gap_NS)
        last_N = length(*(x[:, None] for x in (self.p_N, self.q_N, self.q_N - self.p_N)))[:, 0]
        total_N = self.in_p_N * first_N + np.vecdot(self.p_NS, each_NS)
        return np.asarray(total_N + nodes.tail_p_N * last_N)

    def _ratio(self, p: Floats, q: Floats) -> Floats:
        """Return what tokens outside S get per P_j, for y of probabilities p and q."""
        below: Floats = self.out_p_N[:, None] - p
        ratio: Floats = self.out_q_N[:, None] - q
        np.maximum(ratio, LEAST_TAIL, out=ratio)
        ratio *= below >= LEAST_TAIL
        np.maximum(below, LEAST_TAIL, out=below)
        ratio /= below
        return ratio

    def _bucket_mean(self) -> Floats:
        nodes = self.nodes
        nothing_N1 = np.zeros((nodes.rows.size, 1))
        first_N = self._ratio(nothing_N1, nothing_N1)[:, 0]
        weighed_NS = self._ratio(self.p_NS, self.q_NS)
        weighed_NS *= self.p_NS
        weighed_N = self.p_N * self._ratio(self.p_N[:, None], self.q_N[:, None])[:, 0]
        level_N = self.in_p_N * first_N + weighed_NS.sum(axis=1)
        level_N += np.maximum(nodes.num_tail_N, 1) * weighed_N
        a_NS = np.subtract(self.q_NS, weighed_NS, out=weighed_NS)
        a_NS += level_N[:, None]
        a_NS *= nodes.p_NS
        np.copyto(a_NS, nodes.q_NS, where=self.inside_NS)
        tail_a_N = nodes.tail_p_N * (self.q_N + level_N - weighed_N)
        return pulled(a_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, tail_a_N)

    def _bucket_length(
        self, p: Floats, q: Floats, gap: Floats, gaps: Floats, mixed: Floats, own: Floats
    ) -> Floats:
        ratio = self._ratio(p, q)
        out_p = np.maximum(self.out_p_N[:, None] - p, 0.0)
        out_q = np.maximum(self.out_q_N[:, None] - q, 0.0)
        # The total weight less 1, which is 0 where nothing is clamped.
        excess = np.where(out_p < LEAST_TAIL, 0.0, np.maximum(out_q, LEAST_TAIL)) - out_q
        others_N = np.vecdot(self.p_NS, self.p_NS) + self.nodes.tail_p_N * self.p_N
        others = np.maximum(others_N[:, None] - p**2, 0.0)
        inside = gaps - 2.0 * excess * mixed + excess**2 * own
        outside = (ratio - 1.0 - excess) ** 2 * others
        return np.asarray(inside + (gap - p * excess) ** 2 + outside)

    def _set_mean(self) -> Floats:
        """Average q~ - p~ on K and y: K's part has one factor for Q and one for P."""
        nodes = self.nodes
        with np.errstate(divide="ignore", invalid="ignore"):
            by_q_NS = self.p_NS / (self.in_q_N[:, None] + self.q_NS)
            by_p_NS = self.p_NS / (self.in_p_N[:, None] + self.p_NS)
            by_q_N = nodes.tail_p_N / (self.in_q_N + self.q_N)
            by_p_N = nodes.tail_p_N / (self.in_p_N + self.p_N)
            for_q_N = self.in_p_N / self.in_q_N + by_q_NS.sum(axis=1) + by_q_N
            for_p_N = 1.0 + by_p_NS.sum(axis=1) + by_p_N
        ascent_NS = np.where(
            self.inside_NS,
            nodes.q_NS * for_q_N[:, None] - nodes.p_NS * for_p_N[:, None],
            by_q_NS * self.q_NS - by_p_NS * self.p_NS,
        )
        tail_N = by_q_N * self.q_N - by_p_N * self.p_N
        ascent_NS[nodes.rows, nodes.anchor_N] = 0.0
        ascent_NS[nodes.rows, nodes.anchor_N] = -(ascent_NS.sum(axis=1) + tail_N)
        return ascent_NS

    def _set_length(
        self,
        p: Floats,
        q: Floats,
        gap: Floats,
        total_gap: Floats,
        gaps: Floats,
        mixed: Floats,
        own: Floats,
    ) -> Floats:
        mass_p, mass_q = self.in_p_N[:, None] + p, self.in_q_N[:, None] + q
        with np.errstate(divide="ignore", invalid="ignore"):
            # Q / mass_q - P / mass_p = gap / mass_q + P shift
            shift = -(total_gap + gap) / (mass_p * mass_q)
            inside = gaps / mass_q**2 + 2.0 * shift / mass_q * mixed + shift**2 * own
            return np.asarray(inside + (gap / mass_q + p * shift) ** 2)
