"""Reverse KL of the whole response, token by token: MiniLLM and its trainers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch, SpineView
from gradalign.methods.catalogue import register
from gradalign.methods.distributions import Floats, Ints
from gradalign.methods.identities import divergence
from gradalign.methods.returns import (
    Outcomes,
    continuations_of,
    discounted_sums,
    geometric_sum,
    spines_of,
)
from gradalign.methods.sampled import Draws, SampledToken


@dataclass(frozen=True)
class _Returns(SampledToken):
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


@register("minillm")
@dataclass(frozen=True)
class MiniLLM(_Returns):
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


@register("trl/minillm")
@dataclass(frozen=True)
class TRLMiniLLM(_Returns):
    """MiniLLM as TRL's experimental trainer computes it, without a task reward.

    The advantage is not detached there, so every earlier advantage that contains the token's log
    probability pulls it down: at gamma = 0 the weight is r_y - 1, in general r_y becomes the
    (normalised) return minus a term that depends on position and length only. The single-step
    reverse KL is added in full, on top of r_y.
    """

    formula: ClassVar[str] = (
        "(R_t - c_t) (e_y - P) + P_j (r_j + KL), R_t = discounted return from r_y on,"
        " c_t = 1 at gamma=0"
    )
    source: ClassVar[str] = (
        "TRL experimental MiniLLMTrainer at 04b5c562 (gone from 1.16); arXiv 2306.08543"
    )

    gamma: float = option(0.0, "discount of later log ratios", low=0.0, high=1.0)
    length_norm: bool = option(True, "divide the return by the sum of its discounts")
    single_step: bool = option(True, "add the full-vocabulary reverse KL")

    @property
    def expected_needs(self) -> frozenset[str]:
        """Also the node's position on its spine unless gamma is 0."""
        return super().expected_needs | super().sampled_needs

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the mean undetached advantage after y."""
        nodes = batch.at(1.0)
        extra_NS = divergence(nodes, 1.0) if self.single_step else None
        if not self._looks_ahead:
            return Draws(nodes, nodes.r_NS - 1.0, nodes.tail_r_N - 1.0, extra_NS=extra_NS)
        rolled, spines = continuations_of(batch), spines_of(batch)
        position_K = (spines.at_N - spines.begin_N)[rolled.node_K]
        own_K = nodes.r_NS[rolled.node_K, rolled.slot_K]
        future_K = discounted_sums(rolled.log_ratio_T, rolled.start_K, rolled.stop_K, self.gamma)
        weight_K = self._weight(own_K, future_K, position_K, rolled.stop_K - rolled.start_K)
        found = Outcomes(nodes, rolled)
        mean_NS, mean_N = found.mean(weight_K)
        return Draws(
            nodes,
            mean_NS,
            mean_N,
            second=lambda: found.mean(weight_K**2),
            extra_NS=extra_NS,
            reason_N=found.reason_N,
        )

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the undetached advantage on the node's own spine."""
        if not self._looks_ahead:
            return self.draws(batch)
        nodes, spines = batch.at(1.0), spines_of(batch)
        own_N = nodes.r_NS[nodes.rows, np.maximum(batch.sampled_N, 0)]
        future_N = discounted_sums(spines.log_ratio_T, spines.at_N + 1, spines.end_N, self.gamma)
        weight_N = self._weight(
            own_N, future_N, spines.at_N - spines.begin_N, spines.end_N - spines.at_N - 1
        )
        extra_NS = divergence(nodes, 1.0) if self.single_step else None
        return Draws(nodes, nodes.r_NS, nodes.tail_r_N, drawn_N=weight_N, extra_NS=extra_NS)

    def _weight(self, own_K: Floats, future_K: Floats, position_K: Ints, later_K: Ints) -> Floats:
        return_K = own_K + self.gamma * future_K
        if not self.length_norm:
            scale_K = self.gamma ** position_K.astype(np.float64)
            return np.asarray(scale_K * (return_K - (position_K + 1.0)))
        pairs, index_K = np.unique(np.stack([position_K, later_K]), axis=1, return_inverse=True)
        pull = _undetached(self.gamma, pairs[0], pairs[1])
        normed_K = return_K / geometric_sum(self.gamma, later_K)
        return np.asarray(normed_K - pull[index_K.reshape(-1)])


def _undetached(gamma: float, position_K: Ints, later_K: Ints) -> Floats:
    """Sum over s = 0..position of gamma^s / (1 + gamma + ... + gamma^(later + s)).

    s is how far back an advantage lies which contains the token's log probability; the
    denominator is that advantage's length normalisation.
    """
    if position_K.size == 0:
        return np.zeros(0)
    reach = int(position_K.max() + later_K.max()) + 1
    inverse_T = 1.0 / geometric_sum(gamma, np.arange(reach))
    return discounted_sums(inverse_T, later_K, later_K + position_K + 1, gamma)


@register("lmops/minillm")
@dataclass(frozen=True)
class LMOpsMiniLLM(_Returns):
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
