"""What TRL's distillation trainers apply, option by option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from gradalign.errors import UsageError
from gradalign.methods.base import Ascent, Method, option, per_option, skip_first_option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats, Ints, Support
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import bucketed, divergence, renormalised
from gradalign.methods.opd import log_ratio_draws
from gradalign.methods.registry import register
from gradalign.methods.returns import (
    FutureReturns,
    Outcomes,
    continuations_of,
    discounted_sums,
    geometric_sum,
    spines_of,
)
from gradalign.methods.sampled import Draws, SampledToken, scaled

LEAST_TAIL = float(-np.expm1(-1e-7))
"""TRL clamps the log of the mass on the set at -1e-7, so that the tail keeps this much."""


@register("trl/gkd")
@dataclass(frozen=True)
class TRLGKD(Method):
    """GKDTrainer. Its `temperature` is for sampling only: the loss is taken at temperature 1."""

    formula: ClassVar[str] = "as gkd at temperature 1"
    source: ClassVar[str] = "TRL 1.16 experimental GKDTrainer.compute_loss"

    beta: float = option(0.5, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the whole vocabulary."""
        nodes = batch.at(1.0)
        return scaled(nodes, divergence(nodes, self.beta), nodes.unit_N)


@register("trl/distillation")
@dataclass(frozen=True)
class TRLDistillation(Method):
    """DistillationTrainer: generalised divergence over the whole vocabulary, at a temperature."""

    formula: ClassVar[str] = "as gkd at temperature T"
    source: ClassVar[str] = "TRL 1.16 DistillationTrainer, _chunked_divergence_loss"

    beta: float = option(1.0, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    temperature: float = option(1.0, "divides both models' logits", low=0.0, open_low=True)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the whole vocabulary."""
        nodes = batch.at(self.temperature)
        return scaled(nodes, divergence(nodes, self.beta), nodes.unit_N)


@register("trl/sdpo")
@dataclass(frozen=True)
class TRLSDPO(SampledToken):
    """SDPOTrainer with distillation_weight=1, on policy (its importance ratio is then 1).

    Modes are the trainer's `distillation_mode`; `auto` is topk_logits if `top_k` is given and
    sampled_token otherwise. The top tokens are the STUDENT's unless a server is the teacher.
    """

    formula: ClassVar[str] = (
        "sampled_token: r_y (e_y - P); topk_logits: the divergence on the student's top-k,"
        " renormalised or with a tail bucket; full_logits: as gkd"
    )
    source: ClassVar[str] = "TRL 1.16 experimental SDPOTrainer and its loss_utils"

    alpha: float = option(1.0, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    top_k: int = option(0, "size of the student's top set", low=0)
    tail: bool = option(False, "one bucket for the rest instead of renormalising")
    mode: str = option(
        "auto",
        "distillation_mode",
        choices=("auto", "sampled_token", "topk_logits", "full_logits"),
    )
    support: str = option(
        "student",
        "whose top tokens: the teacher's with use_teacher_server",
        choices=("student", "teacher"),
    )
    temperature: float = option(1.0, "divides both models' logits", low=0.0, open_low=True)

    def __post_init__(self) -> None:
        """Check that the options go together as the trainer's configuration demands."""
        super().__post_init__()
        if (self._mode == "topk_logits") != (self.top_k > 0):
            raise UsageError(
                f"{self.name}: top_k must be given for mode=topk_logits, and for it only."
            )
        if self._mode == "sampled_token" and self.alpha != 1.0:
            raise UsageError(f"{self.name}: mode=sampled_token goes with alpha=1 only.")

    @property
    def _mode(self) -> str:
        if self.mode != "auto":
            return self.mode
        return "topk_logits" if self.top_k else "sampled_token"

    def draws(self, batch: NodeBatch) -> Draws:
        """Return r_y."""
        return log_ratio_draws(batch.at(self.temperature))

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient of the mode's divergence."""
        nodes = batch.at(self.temperature)
        if self._mode == "sampled_token":
            return super().expected(batch)
        if self._mode == "full_logits":
            return scaled(nodes, divergence(nodes, self.alpha), nodes.unit_N)
        inside_NS = nodes.top_set(cast(Support, self.support), self.top_k)
        if self.tail:
            ascent_NS = bucketed(nodes, inside_NS, self.alpha, LEAST_TAIL)
            return scaled(nodes, ascent_NS, nodes.unit_N)
        ascent_NS, unit_N = renormalised(nodes, inside_NS, self.alpha)
        return scaled(nodes, ascent_NS, unit_N, set_reasons(inside_NS, renormalises=True))

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return r_y (e_y - P), or the full-distribution gradient of the other modes."""
        return super().sampled(batch) if self._mode == "sampled_token" else self.expected(batch)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance over the drawn token, 0 for the modes that draw none, [N]."""
        if self._mode == "sampled_token":
            return super().squared_deviation(batch)
        return np.zeros(batch.num_nodes)


@register("trl/sdft")
@dataclass(frozen=True)
class TRLSDFT(TRLSDPO):
    """SDFTTrainer, on policy (its importance ratio, capped at 2, is then 1).

    As SDPOTrainer with other defaults: Jensen-Shannon on the student's top 100, renormalised. The
    loss is a mean over responses of their means over tokens.
    """

    formula: ClassVar[str] = "as trl/sdpo, weighed by one over the tokens of the response"
    source: ClassVar[str] = "TRL 1.16 experimental SDFTTrainer and its loss_utils; arXiv 2601.19897"

    alpha: float = option(0.5, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    top_k: int = option(100, "size of the top set", low=0)
    skip_first: int = skip_first_option()
    per: str = per_option("sequence")


@register("trl/iw_opd")
@dataclass(frozen=True)
class TRLIWOPD(SampledToken):
    """IWOPDTrainer: sampled-token reverse KL, weighted down along the response.

    w_t falls from 1 + gamma to 1 as the |r| of the tokens before t uses up the spine's total.
    The weight is the node's, taken from its spine: `expected` averages over the token with it
    held fixed, although the token's own |r| is part of the total.
    """

    formula: ClassVar[str] = (
        "w_t r_y (e_y - P), w_t = 1 + gamma (1 - sum over s<t of |r_s| / sum over all s of |r_s|)"
    )
    source: ClassVar[str] = "TRL 1.16 experimental IWOPDTrainer._compute_iw_opd_loss"

    gamma: float = option(0.5, "iw_opd_gamma", low=0.0)
    epsilon: float = option(1e-8, "iw_opd_epsilon, the least total", low=0.0, open_low=True)

    @property
    def expected_needs(self) -> frozenset[str]:
        """The teacher's log ratios along the whole spine."""
        return frozenset({"teacher", "spine"})

    def draws(self, batch: NodeBatch) -> Draws:
        """Return w_t r_y."""
        nodes, spines = batch.at(1.0), spines_of(batch)
        size_T = np.abs(spines.log_ratio_T)
        before_N = discounted_sums(size_T, spines.begin_N, spines.at_N, 1.0)
        total_N = before_N + discounted_sums(size_T, spines.at_N, spines.end_N, 1.0)
        with np.errstate(invalid="ignore"):
            used_N = before_N / np.maximum(total_N, self.epsilon)
        weight_N = 1.0 + self.gamma * (1.0 - used_N)
        return Draws(nodes, nodes.r_NS * weight_N[:, None], nodes.tail_r_N * weight_N)


@register("trl/minillm")
@dataclass(frozen=True)
class TRLMiniLLM(FutureReturns):
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
