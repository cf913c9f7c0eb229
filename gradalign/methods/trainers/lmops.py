"""What microsoft/LMOps applies: MiniLLM as its authors train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch, SpineView
from gradalign.methods.distributions import Floats
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

BLOCK_NODES = 256
"""Nodes computed at a time, so that what is in between stays in the processor's cache."""


@register("lmops/minillm")
@dataclass(frozen=True)
class LMOpsMiniLLM(FutureReturns):
    """MiniLLM as its authors' trainer computes it (microsoft/LMOps, minillm).

    Rewards are r / 0.5 clipped to +-100. The return of a token counts its own reward, is
    discounted, and is divided by the number of tokens left; advantages are whitened over the
    trainer's batch, here over the batch's spines. The trainer draws from the mixture alpha Q +
    (1 - alpha) P and weighs by P over it (at most 1.25), within PPO's clip range, outside of
    which a token has no gradient. The single-step reverse KL is added. `sampled` is the direction
    of the spine's token had it come from the mixture, and averages to `expected` over that.
    """

    formula: ClassVar[str] = (
        "w_y 1[not clipped] A_y (e_y - P) + P_j (r_j + KL),"
        " A = whitened discounted return / tokens left"
    )
    source: ClassVar[str] = (
        "microsoft/LMOps minillm/losses.py at 7b14befc; Gu et al., arXiv 2306.08543"
    )

    gamma: float = option(0.95, "discount of later rewards", low=0.0, high=1.0)
    alpha: float = option(0.2, "share of the teacher in the sampling mixture", low=0.0, high=0.99)
    reward_scaling: float = option(0.5, "divides the log ratio", low=0.0, open_low=True)
    reward_clip: float = option(100.0, "limit of the scaled log ratio", low=0.0, open_low=True)
    clip_range: float = option(0.2, "PPO's clip range", low=0.0)
    whiten: bool = option(True, "whiten advantages over the spines of the batch")
    single_step: bool = option(True, "add the full-vocabulary reverse KL")

    @property
    def expected_needs(self) -> frozenset[str]:
        """The return counts tokens left, so that continuations are needed at any gamma."""
        always = {"teacher", "continuations", "continuation_scores"}
        return frozenset(always | {"spine"} if self.whiten else always)

    @property
    def sampled_needs(self) -> frozenset[str]:
        """The node's own spine."""
        return frozenset({"teacher", "spine"})

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the weighted, clipped advantage after y."""
        nodes, rolled = batch.at(1.0), continuations_of(batch)
        future_K = self.gamma * discounted_sums(
            rolled.log_ratio_T, rolled.start_K, rolled.stop_K, self.gamma, self._reward
        )
        left_K: Floats = (rolled.stop_K - rolled.start_K + 1).astype(np.float64)
        shift, scale = self._whitening(batch)
        found = Outcomes(nodes, rolled)
        r_K = nodes.r_NS[rolled.node_K, rolled.slot_K]
        value_K = self._clipped(((self._reward(r_K) + future_K) / left_K - shift) * scale, r_K)
        # Elsewhere the token's own reward is known, and what follows is taken as on average.
        share_N = found.elsewhere(1.0 / left_K) * scale
        later_N = (found.elsewhere(future_K / left_K) - shift) * scale
        mean_NS = np.empty(nodes.p_NS.shape)
        for begin in range(0, batch.num_nodes, BLOCK_NODES):
            some = slice(begin, begin + BLOCK_NODES)
            r_BS = nodes.r_NS[some]
            mean_BS = self._reward(r_BS) * share_N[some, None] + later_N[some, None]
            mean_NS[some] = self._clipped(mean_BS, r_BS)
        found.at_seen(mean_NS, value_K)
        tail_r_N = nodes.tail_r_N
        tail_N = self._clipped(self._reward(tail_r_N) * share_N + later_N, tail_r_N)

        def second() -> tuple[Floats, Floats]:
            square_NS = mean_NS**2
            found.at_seen(square_NS, value_K**2)
            weight_NS, weight_N = self._importance(nodes.r_NS), self._importance(tail_r_N)
            return square_NS * weight_NS, tail_N**2 * weight_N

        # The mixture's probability times the importance weight is P: all is averaged over P, and
        # the weight is in the squares once.
        return Draws(
            nodes,
            mean_NS,
            tail_N,
            second=second,
            extra_NS=divergence(nodes, 1.0) if self.single_step else None,
            reason_N=found.reason_N,
        )

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the weighted, clipped advantage on the node's own spine."""
        nodes, spines = batch.at(1.0), spines_of(batch)
        own_N = nodes.r_NS[nodes.rows, np.maximum(batch.sampled_N, 0)]
        future_N = self.gamma * discounted_sums(
            spines.log_ratio_T, spines.at_N + 1, spines.end_N, self.gamma, self._reward
        )
        shift, scale = self._whitening(batch)
        advantage_N = (
            (self._reward(own_N) + future_N) / (spines.end_N - spines.at_N) - shift
        ) * scale
        extra_NS = divergence(nodes, 1.0) if self.single_step else None
        return Draws(
            nodes,
            nodes.r_NS,
            nodes.tail_r_N,
            drawn_N=self._clipped(advantage_N, own_N) * self._importance(own_N),
            extra_NS=extra_NS,
        )

    def _reward(self, log_ratio: Floats) -> Floats:
        reward = log_ratio / self.reward_scaling
        return np.clip(reward, -self.reward_clip, self.reward_clip, out=reward)

    def _importance(self, log_ratio: Floats) -> Floats:
        """Return P over the mixture that draws."""
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 - self.alpha + self.alpha * np.exp(log_ratio)))

    def _clipped(self, advantage: Floats, log_ratio: Floats) -> Floats:
        """Remove the advantages of tokens whose importance weight PPO's clip has cut off."""
        weight = self._importance(log_ratio)
        kept = np.where(
            advantage > 0.0, weight <= 1.0 + self.clip_range, weight >= 1.0 - self.clip_range
        )
        return np.where(kept, advantage, 0.0)

    def _whitening(self, batch: NodeBatch) -> tuple[float, float]:
        """Return mean and inverse deviation of the advantages of every token of every spine."""
        if not self.whiten:
            return 0.0, 1.0
        advantage_T = _spine_advantages(spines_of(batch), self._reward, self.gamma)
        return float(advantage_T.mean()), float(1.0 / np.sqrt(advantage_T.var() + 1e-8))


def _spine_advantages(
    spines: SpineView, reward: Callable[[Floats], Floats], gamma: float
) -> Floats:
    """Return the discounted return over tokens left, of all tokens of all spines, flat."""
    ends = np.unique(np.stack([spines.begin_N, spines.end_N]), axis=1)
    length_Q = ends[1] - ends[0]
    left_TQ = length_Q - np.arange(int(length_Q.max(initial=0)))[:, None]
    valid_TQ = left_TQ > 0
    reward_T = reward(spines.log_ratio_T)
    value_TQ = np.zeros(left_TQ.shape)
    value_TQ[valid_TQ] = reward_T[(ends[1] - left_TQ)[valid_TQ]]
    for step in range(len(value_TQ) - 2, -1, -1):
        value_TQ[step] += gamma * value_TQ[step + 1]
    return np.asarray(value_TQ[valid_TQ] / left_TQ[valid_TQ])
