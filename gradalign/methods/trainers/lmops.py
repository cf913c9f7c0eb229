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
        reward_NS = self._reward(nodes.r_NS)
        future_K = self.gamma * discounted_sums(
            self._reward(rolled.log_ratio_T), rolled.start_K, rolled.stop_K, self.gamma
        )
        left_K: Floats = (rolled.stop_K - rolled.start_K + 1).astype(np.float64)
        shift, scale = self._whitening(batch)
        weight_NS = self._importance(nodes.r_NS)
        found = Outcomes(nodes, rolled)
        at_K = (rolled.node_K, rolled.slot_K)
        value_K = self._clipped(
            ((reward_NS[at_K] + future_K) / left_K - shift) * scale, weight_NS[at_K]
        )
        # Elsewhere the token's own reward is known, and what follows is taken as on average.
        share_NS, share_N = found.mean(1.0 / left_K)
        later_NS, later_N = found.mean(future_K / left_K)
        guess_NS = self._clipped((reward_NS * share_NS + later_NS - shift) * scale, weight_NS)
        tail_weight_N = self._importance(nodes.tail_r_N)
        tail_N = tail_weight_N * self._clipped(
            (self._reward(nodes.tail_r_N) * share_N + later_N - shift) * scale, tail_weight_N
        )

        def second() -> tuple[Floats, Floats]:
            square_NS = guess_NS**2
            found.at_seen(square_NS, value_K**2)
            return square_NS * weight_NS**2, tail_N**2

        mean_NS = guess_NS.copy()
        found.at_seen(mean_NS, value_K)
        return Draws(
            nodes,
            mean_NS * weight_NS,
            tail_N,
            second=second,
            draw_NS=(1.0 - self.alpha) * nodes.p_NS + self.alpha * nodes.q_NS,
            draw_tail_N=(1.0 - self.alpha) * nodes.tail_p_N + self.alpha * nodes.tail_q_N,
            extra_NS=divergence(nodes, 1.0) if self.single_step else None,
            reason_N=found.reason_N,
        )

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the weighted, clipped advantage on the node's own spine."""
        nodes, spines = batch.at(1.0), spines_of(batch)
        own_N = nodes.r_NS[nodes.rows, np.maximum(batch.sampled_N, 0)]
        future_N = self.gamma * discounted_sums(
            self._reward(spines.log_ratio_T), spines.at_N + 1, spines.end_N, self.gamma
        )
        shift, scale = self._whitening(batch)
        advantage_N = (
            (self._reward(own_N) + future_N) / (spines.end_N - spines.at_N) - shift
        ) * scale
        weight_N = self._importance(own_N)
        extra_NS = divergence(nodes, 1.0) if self.single_step else None
        return Draws(
            nodes,
            nodes.r_NS,
            nodes.tail_r_N,
            drawn_N=weight_N * self._clipped(advantage_N, weight_N),
            extra_NS=extra_NS,
        )

    def _reward(self, log_ratio: Floats) -> Floats:
        return np.asarray(
            np.clip(log_ratio / self.reward_scaling, -self.reward_clip, self.reward_clip)
        )

    def _importance(self, log_ratio: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 - self.alpha + self.alpha * np.exp(log_ratio)))

    def _clipped(self, advantage: Floats, weight: Floats) -> Floats:
        """Remove the advantages whose importance weight PPO's clip has cut off."""
        high = (advantage > 0.0) & (weight > 1.0 + self.clip_range)
        low = (advantage < 0.0) & (weight < 1.0 - self.clip_range)
        return np.where(high | low, 0.0, advantage)

    def _whitening(self, batch: NodeBatch) -> tuple[float, float]:
        """Return mean and inverse deviation of the advantages of every token of every spine."""
        if not self.whiten:
            return 0.0, 1.0
        advantage_T = _spine_advantages(spines_of(batch), self._reward, self.gamma)
        return float(advantage_T.mean()), float(1.0 / np.sqrt(advantage_T.var() + 1e-8))


def _spine_advantages(
    spines: SpineView, reward: Callable[[Floats], Floats], gamma: float
) -> Floats:
    """Return the discounted return over tokens left, for every token of every spine, flat."""
    ends = np.unique(np.stack([spines.begin_N, spines.end_N]), axis=1)
    length_Q = ends[1] - ends[0]
    width = int(length_Q.max(initial=0))
    step_T = np.arange(width)
    valid_QT = step_T < length_Q[:, None]
    reward_T = reward(spines.log_ratio_T)
    index_QT = np.minimum(ends[0][:, None] + step_T, max(reward_T.size - 1, 0))
    value_QT = np.where(valid_QT, reward_T[index_QT], 0.0)
    for step in range(width - 2, -1, -1):
        value_QT[:, step] += gamma * value_QT[:, step + 1]
    left_QT = np.maximum(length_Q[:, None] - step_T, 1)
    return np.asarray((value_QT / left_QT)[valid_QT])
