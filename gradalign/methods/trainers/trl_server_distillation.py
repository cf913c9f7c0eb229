"""TRL's server distillation: sparse divergences between what a teacher server returns.

For beta > 0 the loss sees the drawn token y, for beta < 1 also the teacher's best token t, and
one bucket for everything else. Its average over y has a closed form, because for a given y
the gradient is P_j (f_b(j) - fbar) with f constant on the bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.errors import UsageError
from gradalign.methods.base import Ascent, Method, no_reasons, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats, Ints
from gradalign.methods.gkd import SINGLE, set_reasons
from gradalign.methods.identities import bucketed, centred, gain, renormalised
from gradalign.methods.registry import register
from gradalign.methods.sampled import NO_TOKEN, Draws, scaled
from gradalign.methods.trainers.trl import LEAST_TAIL


@register("trl/server_distillation")
@dataclass(frozen=True)
class TRLServerDistillation(Method):
    """ServerDistillationTrainer, whose teacher returns log-probabilities of a few tokens.

    - beta = 1: binary KL on {y} and the rest, P_y (logit Q_y - logit P_y) (e_y - P) for the
      drawn y. On average this is not the gradient of the reverse KL.
    - beta = 0: forward KL on the teacher's `top_k` tokens and, with `tail`, the rest.
    - in between: the divergence on {teacher's best token, y} and, with `tail`, the rest.

    Without `tail` the set is renormalised, so that beta = 1 has no gradient at all.
    """

    formula: ClassVar[str] = (
        "beta=1: P_y (logit Q_y - logit P_y) (e_y - P); beta=0: Q_j - P_j in the teacher's top-k,"
        " P_j (Q_tail/P_tail - 1) outside (tail), q~_j - p~_j (no tail)"
    )
    source: ClassVar[str] = "TRL 1.16 experimental ServerDistillationTrainer"

    beta: float = option(1.0, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    top_k: int = option(1, "loss_top_k; 1 unless beta=0", low=1)
    tail: bool = option(True, "loss_add_tail: one bucket for the rest")
    temperature: float = option(1.0, "divides both models' logits", low=0.0, open_low=True)

    def __post_init__(self) -> None:
        """Check what the trainer's configuration checks."""
        super().__post_init__()
        if self.beta > 0.0 and self.top_k != 1:
            raise UsageError(f"{self.name}: top_k must be 1 for beta > 0, got {self.top_k}.")

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the average over the drawn token, in closed form."""
        nodes = batch.at(self.temperature)
        if self.beta == 0.0:
            return self._forward(nodes)
        if not self.tail:
            return self._pairs(nodes)
        if self.beta == 1.0:
            return scaled(nodes, self._binary(nodes).mean(), nodes.unit_N)
        table = _Buckets(nodes, self.beta)
        ascent_NS = centred(
            nodes.p_NS, table.mean_NS, nodes.anchor_N, nodes.tail_p_N, table.mean_tail_N
        )
        return scaled(nodes, ascent_NS, nodes.unit_N)

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return the direction for the token that was drawn."""
        nodes = batch.at(self.temperature)
        if self.beta == 0.0:
            return self._forward(nodes)
        reason_N = no_reasons(batch.num_nodes)
        slot_N = np.maximum(batch.sampled_N, 0)
        if self.beta == 1.0 and self.tail:
            ascent_NS, reason_N = self._binary(nodes).single(batch.sampled_N)
            return scaled(nodes, ascent_NS, nodes.unit_N, reason_N)
        inside_NS = np.zeros(nodes.p_NS.shape, dtype=np.bool_)
        inside_NS[nodes.rows, slot_N] = True
        if self.beta < 1.0:
            inside_NS |= nodes.top("teacher", 1)
        if self.tail:
            ascent_NS, unit_N = bucketed(nodes, inside_NS, self.beta, LEAST_TAIL), nodes.unit_N
        else:
            ascent_NS, unit_N = renormalised(nodes, inside_NS, self.beta)
            reason_N = set_reasons(inside_NS, renormalises=True)
        reason_N[batch.sampled_N < 0] = NO_TOKEN
        return scaled(nodes, ascent_NS, unit_N, reason_N)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance over the drawn token, [N]."""
        nodes = batch.at(self.temperature)
        if self.beta == 0.0:
            return np.zeros(batch.num_nodes)
        if not self.tail:
            second_N = self._pair_squares(nodes)
        elif self.beta == 1.0:
            return self._binary(nodes).squared_deviation() / self.temperature**2
        else:
            second_N = _Buckets(nodes, self.beta).second_moment()
        mean_NS = self.expected(batch).ascent_NS * self.temperature
        count_N = np.maximum(nodes.num_tail_N, 1)
        mean2_N = np.vecdot(mean_NS, mean_NS) + mean_NS.sum(axis=1) ** 2 / count_N
        return np.asarray(np.maximum(second_N - mean2_N, 0.0) / self.temperature**2)

    def _forward(self, nodes: Distributions) -> Ascent:
        inside_NS = nodes.top("teacher", self.top_k)
        if self.tail:
            ascent_NS = bucketed(nodes, inside_NS, 0.0, LEAST_TAIL)
            return scaled(nodes, ascent_NS, nodes.unit_N)
        ascent_NS, unit_N = renormalised(nodes, inside_NS, 0.0)
        return scaled(nodes, ascent_NS, unit_N, set_reasons(inside_NS, renormalises=True))

    def _binary(self, nodes: Distributions) -> Draws:
        """Weigh the drawn token by P_y (logit Q_y - logit P_y), minding TRL's clamp of the tail."""
        count_N = np.maximum(nodes.num_tail_N, 1)
        weight_NS = _binary_weight(nodes.log_p_NS, nodes.log_q_NS, nodes.r_NS)
        log_count_N = np.log(count_N)
        weight_N = _binary_weight(
            nodes.log_tail_p_N - log_count_N, nodes.log_tail_q_N - log_count_N, nodes.tail_r_N
        )
        return Draws(nodes, weight_NS, weight_N)

    def _pairs(self, nodes: Distributions) -> Ascent:
        """Average the renormalised divergence on {t, y}: each y trades with t alone."""
        reason_N = no_reasons(nodes.rows.size)
        if self.beta == 1.0:
            reason_N[:] = SINGLE
            return scaled(nodes, np.zeros(nodes.p_NS.shape), nodes.unit_N, reason_N)
        push_NS, push_tail_N, best_N = self._pushes(nodes)
        with np.errstate(invalid="ignore"):
            ascent_NS = nodes.p_NS * push_NS
            total_N = ascent_NS.sum(axis=1) + nodes.tail_p_N * push_tail_N
        ascent_NS[nodes.rows, best_N] = -total_N
        return scaled(nodes, ascent_NS, nodes.unit_N)

    def _pair_squares(self, nodes: Distributions) -> Floats:
        if self.beta == 1.0:
            return np.zeros(nodes.rows.size)
        push_NS, push_tail_N, _ = self._pushes(nodes)
        return np.asarray(
            2.0 * np.vecdot(nodes.p_NS, push_NS**2) + 2.0 * nodes.tail_p_N * push_tail_N**2
        )

    def _pushes(self, nodes: Distributions) -> tuple[Floats, Floats, Ints]:
        """Return how far y is pushed up against t where y is drawn, and the slot of t."""
        best_N = nodes.top("teacher", 1).argmax(axis=1)
        log_count_N = np.log(np.maximum(nodes.num_tail_N, 1))
        log_p_N = nodes.log_p_NS[nodes.rows, best_N]
        log_q_N = nodes.log_q_NS[nodes.rows, best_N]
        push_NS = _pair_push(
            nodes.log_p_NS, nodes.log_q_NS, log_p_N[:, None], log_q_N[:, None], self.beta
        )
        push_NS[nodes.rows, best_N] = 0.0
        push_NS[nodes.p_NS == 0.0] = 0.0
        push_tail_N = _pair_push(
            nodes.log_tail_p_N - log_count_N,
            nodes.log_tail_q_N - log_count_N,
            log_p_N,
            log_q_N,
            self.beta,
        )
        return push_NS, np.where(nodes.tail_p_N > 0.0, push_tail_N, 0.0), best_N


def _log_rest(log_p: Floats) -> Floats:
    """log(1 - p), which is -inf at p = 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(-np.expm1(np.minimum(log_p, 0.0))))


def _binary_weight(log_p: Floats, log_q: Floats, log_ratio: Floats) -> Floats:
    rest_p, rest_q = _log_rest(log_p), _log_rest(log_q)
    least = np.log(LEAST_TAIL)
    with np.errstate(invalid="ignore"):
        weight = log_ratio - np.maximum(rest_q, least) + rest_p
        # Where the student's tail is clamped it is a constant: only P_y log(P_y/Q_y) is left.
        weight = np.where(rest_p < least, log_ratio - 1.0, weight) * np.exp(log_p)
    return np.where(log_p == -np.inf, 0.0, weight)


def _pair_push(log_p: Floats, log_q: Floats, best_p: Floats, best_q: Floats, beta: float) -> Floats:
    """p~_y p~_t (g_y - g_t) for two tokens renormalised, beta in (0, 1)."""
    with np.errstate(invalid="ignore"):
        both_p, both_q = np.logaddexp(log_p, best_p), np.logaddexp(log_q, best_q)
        scale = np.exp(log_p + best_p - 2.0 * both_p)
        own = gain(log_q - both_q - log_p + both_p, beta)
        return np.asarray(scale * (own - gain(best_q - both_q - best_p + both_p, beta)))


class _Buckets:
    """f of the divergence on {t, y, everything else}, for every y, and its averages.

    `best` is f of t, whatever y; `own_NS` f of y when y is drawn; `out_NS` f of everything
    else when y is drawn. In the tail all tokens are alike.
    """

    def __init__(self, nodes: Distributions, beta: float) -> None:
        self.nodes = nodes
        self.best_N = nodes.top("teacher", 1).argmax(axis=1)
        rows, best_N = nodes.rows, self.best_N
        count_N = np.maximum(nodes.num_tail_N, 1)
        self.own_NS = gain(nodes.r_NS, beta)
        self.own_tail_N = gain(nodes.tail_r_N, beta)
        self.best = self.own_NS[rows, best_N]
        others_p_N = nodes.mass_besides(best_N)
        q_NS = nodes.q_NS.copy()
        q_NS[rows, best_N] = 0.0
        others_q_N = q_NS.sum(axis=1) + nodes.tail_q_N
        p_NS = nodes.p_NS.copy()
        p_NS[rows, best_N] = 0.0
        self.out_NS = _rest_gain(others_p_N[:, None] - p_NS, others_q_N[:, None] - q_NS, beta)
        self.out_tail_N = _rest_gain(
            others_p_N - nodes.tail_p_N / count_N, others_q_N - nodes.tail_q_N / count_N, beta
        )
        self.tail_share_N = nodes.tail_p_N / count_N
        # squares of everything but t: to subtract them from the total would lose them
        self.others_p2_N = np.vecdot(p_NS, p_NS) + nodes.tail_p_N * self.tail_share_N

    def _mixed(self) -> tuple[Floats, Floats]:
        """Return the average over y of f of each token: its own if drawn, else the bucket's."""
        nodes = self.nodes
        level_N = np.vecdot(nodes.p_NS, self.out_NS) + nodes.tail_p_N * self.out_tail_N
        mean_NS = level_N[:, None] + nodes.p_NS * (self.own_NS - self.out_NS)
        mean_NS[nodes.rows, self.best_N] = self.best
        mean_N = level_N + self.tail_share_N * (self.own_tail_N - self.out_tail_N)
        return mean_NS, np.asarray(mean_N)

    @property
    def mean_NS(self) -> Floats:
        """Average f of each token of the support."""
        return self._mixed()[0]

    @property
    def mean_tail_N(self) -> Floats:
        """Average f of each token of the tail."""
        return self._mixed()[1]

    def second_moment(self) -> Floats:
        """Return the average over y of the squared length of the direction, [N]."""
        nodes = self.nodes
        p_N = nodes.p_NS[nodes.rows, self.best_N]
        total_NS = self._squares(
            nodes.p_NS, self.own_NS, self.out_NS, p_N[:, None], self.best[:, None], 1
        )
        alone_N = self.out_NS[nodes.rows, self.best_N]
        gap_N = self.best - alone_N
        mean_N = alone_N + p_N * gap_N
        total_NS[nodes.rows, self.best_N] = (
            p_N**2 * (self.best - mean_N) ** 2 + self.others_p2_N * (alone_N - mean_N) ** 2
        )
        tail_N = self._squares(
            self.tail_share_N, self.own_tail_N, self.out_tail_N, p_N, self.best, 0
        )
        return np.asarray(np.vecdot(nodes.p_NS, total_NS) + nodes.tail_p_N * tail_N)

    def _squares(
        self, p: Floats, own: Floats, out: Floats, best_p: Floats, best: Floats, extra_axes: int
    ) -> Floats:
        others_p2 = self.others_p2_N[:, None] if extra_axes else self.others_p2_N
        mean = out + p * (own - out) + best_p * (best - out)
        rest2 = np.maximum(others_p2 - p**2, 0.0)
        return np.asarray(
            p**2 * (own - mean) ** 2 + best_p**2 * (best - mean) ** 2 + rest2 * (out - mean) ** 2
        )


def _rest_gain(out_p: Floats, out_q: Floats, beta: float) -> Floats:
    """The f of the bucket; 0 where TRL's clamp makes the student's bucket a constant."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(np.maximum(out_q, LEAST_TAIL)) - np.log(np.maximum(out_p, LEAST_TAIL))
    return np.where(out_p < LEAST_TAIL, 0.0, gain(log_ratio, beta))
