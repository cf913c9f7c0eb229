"""What TRL's distillation trainers apply, option by option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.errors import UsageError
from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.catalogue import register
from gradalign.methods.distributions import Floats
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import bucketed, divergence, renormalised
from gradalign.methods.opd import log_ratio_draws
from gradalign.methods.returns import discounted_sums, spines_of
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
    sampled_token otherwise. The top tokens are the STUDENT's.
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
        inside_NS = nodes.top("student", self.top_k)
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
