"""Reverse KL of the whole response, token by token: MiniLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats, Ints
from gradalign.methods.identities import divergence
from gradalign.methods.registry import register
from gradalign.methods.returns import (
    FutureReturns,
    Outcomes,
    continuations_of,
    discounted_sums,
    spines_of,
)
from gradalign.methods.sampled import Draws


@register("minillm")
@dataclass(frozen=True)
class MiniLLM(FutureReturns):
    """Reverse KL with future rewards: r_j plus the discounted log ratios of what follows j.

    gamma = 0 is token-level on-policy distillation and needs no continuations; gamma = 1 is the
    gradient of the reverse KL between whole responses; between them lies the future-reward
    coupling of arXiv 2603.25562. Support slots without a continuation get the mean future
    of those that have one, which leaves the direction on the visited set as it is.

    `single_step=true` takes the token's own r_j exactly, as the full-vocabulary reverse KL, and
    samples the future only (equation 6 of arXiv 2306.08543). It is the same direction on average.
    `length_norm=true` divides the future by its number of tokens (section 2.2, ibid.).
    """

    formula: ClassVar[str] = (
        "P_j (f_j - fbar), f_j = r_j + E[sum over i>0 of gamma^i r_{t+i} | y_t = j]"
    )
    source: ClassVar[str] = "Gu et al., MiniLLM, arXiv 2306.08543; gamma as in arXiv 2603.25562"

    gamma: float = option(1.0, "discount of later log ratios", low=0.0, high=1.0)
    length_norm: bool = option(False, "divide the future by its number of tokens")
    single_step: bool = option(True, "take the token's own log ratio exactly")

    def draws(self, batch: NodeBatch) -> Draws:
        """Return r_y plus the mean future after y."""
        nodes = batch.at(1.0)
        if not self._looks_ahead:
            return (
                self._own(batch, np.zeros(batch.num_nodes))
                if self.single_step
                else Draws(nodes, nodes.r_NS, nodes.tail_r_N)
            )
        rolled = continuations_of(batch)
        future_K = self._future(rolled.log_ratio_T, rolled.start_K, rolled.stop_K)
        found = Outcomes(nodes, rolled)
        mean_NS, mean_N = found.mean(future_K)
        if self.single_step:
            return Draws(
                nodes,
                mean_NS,
                mean_N,
                second=lambda: found.mean(future_K**2),
                extra_NS=divergence(nodes, 1.0),
                reason_N=found.reason_N,
            )
        own_NS, own_N = nodes.r_NS, nodes.tail_r_N

        def second() -> tuple[Floats, Floats]:
            square_NS, square_N = found.mean(future_K**2)
            return (
                own_NS**2 + 2.0 * own_NS * mean_NS + square_NS,
                own_N**2 + 2.0 * own_N * mean_N + square_N,
            )

        return Draws(
            nodes, own_NS + mean_NS, own_N + mean_N, second=second, reason_N=found.reason_N
        )

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return r_y plus the future on the node's own spine."""
        if not self._looks_ahead:
            return self.draws(batch)
        spines = spines_of(batch)
        future_N = self._future(spines.log_ratio_T, spines.at_N + 1, spines.end_N)
        return self._own(batch, future_N)

    def _own(self, batch: NodeBatch, future_N: Floats) -> Draws:
        nodes = batch.at(1.0)
        if self.single_step:
            nothing_NS = np.zeros(nodes.p_NS.shape)
            extra_NS = divergence(nodes, 1.0)
            return Draws(
                nodes, nothing_NS, np.zeros(batch.num_nodes), drawn_N=future_N, extra_NS=extra_NS
            )
        own_N = nodes.r_NS[nodes.rows, np.maximum(batch.sampled_N, 0)]
        return Draws(nodes, nodes.r_NS, nodes.tail_r_N, drawn_N=own_N + future_N)

    def _future(self, log_ratio_T: Floats, start_K: Ints, stop_K: Ints) -> Floats:
        future_K = self.gamma * discounted_sums(log_ratio_T, start_K, stop_K, self.gamma)
        return future_K / np.maximum(stop_K - start_K, 1) if self.length_norm else future_K
