"""What ms-swift applies beside the divergences of GKD: two ways to join a teacher to RL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option, per_option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats
from gradalign.methods.registry import register
from gradalign.methods.returns import Outcomes, continuations_of, spines_of
from gradalign.methods.sampled import Draws, SampledToken


@register("swift/sdar")
@dataclass(frozen=True)
class SDAR(SampledToken):
    """SDAR's gated distillation: the sampled token is pushed up, the more the teacher likes it.

    The gate is detached and never negative: a token that the teacher dislikes is pushed up less,
    not down. The trainer adds `sdar_loss_coef` times this to GRPO: `dr_grpo+0.1*swift/sdar`.
    """

    formula: ClassVar[str] = "g_y (e_y - P), on average P_j (g_j - gbar), g = sigmoid(beta r)"
    source: ClassVar[str] = (
        "ms-swift 4.6.0 rl_core/advantage.py:362 compute_sdar_loss; SDAR, arXiv 2605.15155"
    )
    zero_reason: ClassVar[str] = "the gate is as open for every token"

    beta: float = option(5.0, "sdar_gate_beta, sharpness of the gate", low=0.0)
    per: str = per_option()

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the gate of each token."""
        nodes = batch.at(1.0)
        return Draws(nodes, self._gate(nodes.r_NS), self._gate(nodes.tail_r_N))

    def _gate(self, log_ratio: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(1.0 / (1.0 + np.exp(-self.beta * log_ratio)))


@register("swift/rlsd")
@dataclass(frozen=True)
class RLSD(SampledToken):
    """RLSD: the verifier says which way a token goes, the teacher how far.

    A = R - mean R over a group of responses, as in `dr_grpo`; the trainer divides it by the group's
    deviation too. `expected` takes A after each token from the continuations. Tokens without
    continuations have the mean of those with some, weighed by their own log ratio.
    """

    formula: ClassVar[str] = (
        "A w_y (e_y - P), w_y = 1 - l + l clip(exp(sign(A) r_y), 1 - eps, 1 + eps)"
    )
    source: ClassVar[str] = (
        "ms-swift 4.6.0 rl_core/advantage.py:294 apply_rlsd_reweight; RLSD, arXiv 2604.03128"
    )
    zero_reason: ClassVar[str] = "flat, all rewards are equal"

    mix: float = option(0.5, "rlsd_lambda: 0 plain policy gradient, 1 all weighed", low=0, high=1)
    clip: float = option(0.2, "rlsd_reweight_clip_range", low=0.0, high=1.0)
    negative_only: bool = option(False, "weigh only responses below the group's mean")
    group: int = option(8, "responses per question", low=2)

    @property
    def expected_needs(self) -> frozenset[str]:
        """The teacher, and the rewards of continuations."""
        return frozenset({"teacher", "continuations"})

    @property
    def sampled_needs(self) -> frozenset[str]:
        """The teacher, the spine's reward and its group's mean."""
        return frozenset({"teacher", "spine"})

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the mean weighed advantage of each token and its mean square."""
        nodes, rolled = batch.at(1.0), continuations_of(batch)
        found = Outcomes(nodes, rolled)
        _, base_N = found.mean(rolled.reward_K)
        if batch.spines is not None:
            known_N = batch.spines.group_mean_N
            base_N = np.where(np.isnan(known_N), base_N, known_N)
        share = (self.group - 1.0) / self.group
        advantage_K = share * (rolled.reward_K - base_N[rolled.node_K])
        by_sign = ((np.maximum(advantage_K, 0.0), 1.0), (np.minimum(advantage_K, 0.0), -1.0))

        def average(power: int) -> tuple[Floats, Floats]:
            parts = []
            for part_K, sign in by_sign:
                mean_NS, mean_N = found.mean(part_K**power)
                for _ in range(power):
                    mean_NS *= self._weight(nodes.r_NS, sign)
                parts.append((mean_NS, mean_N * self._weight(nodes.tail_r_N, sign) ** power))
            (total_NS, above_N), (below_NS, below_N) = parts
            total_NS += below_NS
            return total_NS, above_N + below_N

        mean_NS, mean_N = average(1)
        return Draws(nodes, mean_NS, mean_N, second=lambda: average(2), reason_N=found.reason_N)

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the weighed advantage of the node's own spine."""
        nodes, spines = batch.at(1.0), spines_of(batch)
        advantage_N = spines.reward_N - spines.group_mean_N
        own_N = nodes.r_NS[nodes.rows, np.maximum(batch.sampled_N, 0)]
        weight_N = np.where(advantage_N < 0.0, self._weight(own_N, -1.0), self._weight(own_N, 1.0))
        nothing_NS = np.zeros(nodes.p_NS.shape)
        return Draws(nodes, nothing_NS, np.zeros(batch.num_nodes), drawn_N=advantage_N * weight_N)

    def _weight(self, log_ratio: Floats, sign: float) -> Floats:
        if self.negative_only and sign > 0.0:
            return np.ones(log_ratio.shape)
        with np.errstate(divide="ignore"):
            low, high = np.log([1.0 - self.clip, 1.0 + self.clip])
        weight = np.clip(sign * log_ratio, low, high)
        np.exp(weight, out=weight)
        weight *= self.mix
        weight += 1.0 - self.mix
        return np.asarray(weight)
