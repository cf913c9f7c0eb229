"""TRL's asynchronous distillation: as a server's teacher, but the drawn token is always scored.

At beta = 0 the loss is the forward KL on the teacher's top-k and the drawn token y. The weights of
`pulled` are linear in what y adds, so that their average over y has a closed form. Axes: as in the
package; K is the teacher's top-k, S = K and y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Bools, Distributions, Floats
from gradalign.methods.identities import bucketed, pulled, renormalised
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

    `gap` is Q - P. For y in K, and for y outside, [N, S] and of the tail's tokens [N]:
    `ratio` is what the tokens outside S get per P_j, 0 where TRL's clamp makes the student's
    bucket a constant; `excess` is the total weight less 1, 0 where nothing is clamped.
    """

    def __init__(self, nodes: Distributions, top_k: int, *, tail: bool) -> None:
        self.nodes, self.tail = nodes, tail
        self.inside_NS: Bools = nodes.top("teacher", top_k)
        self.p_NS = np.where(self.inside_NS, 0.0, nodes.p_NS)  # outside K
        self.q_NS = np.where(self.inside_NS, 0.0, nodes.q_NS)
        self.count_N = np.maximum(nodes.num_tail_N, 1)
        self.p_N, self.q_N = nodes.tail_p_N / self.count_N, nodes.tail_q_N / self.count_N
        self.out_p_N = self.p_NS.sum(axis=1) + nodes.tail_p_N
        self.out_q_N = self.q_NS.sum(axis=1) + nodes.tail_q_N
        self.in_p_N = np.where(self.inside_NS, nodes.p_NS, 0.0).sum(axis=1)
        self.in_q_N = np.where(self.inside_NS, nodes.q_NS, 0.0).sum(axis=1)

    def mean(self) -> Floats:
        """Return the average of the direction over y, [N, S]."""
        return self._bucket_mean() if self.tail else self._set_mean()

    def second_moment(self) -> Floats:
        """Return the average over y of its squared length, [N]."""
        length = self._bucket_length if self.tail else self._set_length
        column = (slice(None), None)
        first_N = length(np.zeros(1), np.zeros(1), ())
        each_NS = length(self.p_NS, self.q_NS, column)
        tail_N = length(self.p_N, self.q_N, ())
        total_N = self.in_p_N * first_N + np.vecdot(self.p_NS, each_NS)
        return np.asarray(total_N + self.nodes.tail_p_N * tail_N)

    def _ratio(self, p: Floats, q: Floats, column: tuple[object, ...]) -> tuple[Floats, Floats]:
        """Return `ratio` and `excess` for y of probabilities p and q outside K."""
        out_p = np.maximum(self.out_p_N[column] - p, 0.0)
        out_q = np.maximum(self.out_q_N[column] - q, 0.0)
        kept_q = np.maximum(out_q, LEAST_TAIL)
        fixed = out_p < LEAST_TAIL
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(fixed, 0.0, kept_q / out_p)
        return ratio, np.where(fixed, 0.0, kept_q) - out_q

    def _bucket_mean(self) -> Floats:
        nodes = self.nodes
        first_N, _ = self._ratio(np.zeros(1), np.zeros(1), ())
        each_NS, _ = self._ratio(self.p_NS, self.q_NS, (slice(None), None))
        last_N, _ = self._ratio(self.p_N, self.q_N, ())
        level_N = self.in_p_N * first_N + np.vecdot(self.p_NS, each_NS) + nodes.tail_p_N * last_N
        a_NS = nodes.p_NS * (self.q_NS + level_N[:, None] - self.p_NS * each_NS)
        a_NS = np.where(self.inside_NS, nodes.q_NS, a_NS)
        tail_a_N = nodes.tail_p_N * (self.q_N + level_N - self.p_N * last_N)
        return pulled(a_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, tail_a_N)

    def _bucket_length(self, p: Floats, q: Floats, column: tuple[object, ...]) -> Floats:
        ratio, excess = self._ratio(p, q, column)
        gap_NS = np.where(self.inside_NS, self.nodes.q_NS - self.nodes.p_NS, 0.0)
        own_NS = np.where(self.inside_NS, self.nodes.p_NS, 0.0)
        inside = (
            np.vecdot(gap_NS, gap_NS)[column]
            - 2.0 * excess * np.vecdot(gap_NS, own_NS)[column]
            + excess**2 * np.vecdot(own_NS, own_NS)[column]
        )
        others_N = np.vecdot(self.p_NS, self.p_NS) + self.nodes.tail_p_N * self.p_N
        others = np.maximum(others_N[column] - p**2, 0.0)
        drawn = q - p * (1.0 + excess)
        return np.asarray(inside + drawn**2 + (ratio - 1.0 - excess) ** 2 * others)

    def _set_mean(self) -> Floats:
        """Average q~ - p~ on K and y: K's part has one factor for Q and one for P."""
        nodes, column = self.nodes, (slice(None), None)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_q_NS = self.p_NS / (self.in_q_N[column] + self.q_NS)
            by_p_NS = self.p_NS / (self.in_p_N[column] + self.p_NS)
            by_q_N = nodes.tail_p_N / (self.in_q_N + self.q_N)
            by_p_N = nodes.tail_p_N / (self.in_p_N + self.p_N)
            for_q_N = self.in_p_N / self.in_q_N + by_q_NS.sum(axis=1) + by_q_N
            for_p_N = 1.0 + by_p_NS.sum(axis=1) + by_p_N
        ascent_NS = np.where(
            self.inside_NS,
            nodes.q_NS * for_q_N[column] - nodes.p_NS * for_p_N[column],
            by_q_NS * self.q_NS - by_p_NS * self.p_NS,
        )
        tail_N = by_q_N * self.q_N - by_p_N * self.p_N
        ascent_NS[nodes.rows, nodes.anchor_N] = 0.0
        ascent_NS[nodes.rows, nodes.anchor_N] = -(ascent_NS.sum(axis=1) + tail_N)
        return ascent_NS

    def _set_length(self, p: Floats, q: Floats, column: tuple[object, ...]) -> Floats:
        mass_p, mass_q = self.in_p_N[column] + p, self.in_q_N[column] + q
        gap_NS = np.where(self.inside_NS, self.nodes.q_NS - self.nodes.p_NS, 0.0)
        own_NS = np.where(self.inside_NS, self.nodes.p_NS, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Q / mass_q - P / mass_p = gap / mass_q + P shift
            shift = -(gap_NS.sum(axis=1)[column] + q - p) / (mass_p * mass_q)
            inside = (
                np.vecdot(gap_NS, gap_NS)[column] / mass_q**2
                + 2.0 * shift / mass_q * np.vecdot(gap_NS, own_NS)[column]
                + shift**2 * np.vecdot(own_NS, own_NS)[column]
            )
            return np.asarray(inside + (q / mass_q - p / mass_p) ** 2)
