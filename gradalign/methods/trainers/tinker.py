"""What the Tinker cookbook applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option, skip_first_option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import pulled, renormalised, within
from gradalign.methods.opd import log_ratio_draws
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken, scaled


@register("tinker/sdft_reverse")
@dataclass(frozen=True)
class TinkerSDFTReverse(Method):
    """Self-distillation fine-tuning, reverse direction, on the teacher's top tokens."""

    formula: ClassVar[str] = "p~_j (r~_j + KL(p~||q~)) on the teacher's top-k, renormalised"
    source: ClassVar[str] = "Tinker cookbook, distillation/sdft.py; arXiv 2601.19897"

    top_k: int = option(20, "size of the teacher's top set", low=1)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the reverse-KL gradient of the renormalised distributions."""
        nodes = batch.at(1.0)
        inside_NS = nodes.top("teacher", self.top_k)
        ascent_NS, unit_N = renormalised(nodes, inside_NS, 1.0)
        return scaled(nodes, ascent_NS, unit_N, set_reasons(inside_NS, renormalises=True))


@register("tinker/sdft")
@dataclass(frozen=True)
class TinkerSDFT(SampledToken):
    """Self-distillation fine-tuning as the cookbook does it by default: a top-k cross-entropy.

    The teacher is renormalised on its top-k, the student is not: all other tokens are pushed down
    also where both models agree. `top_k=0` is its other mode, r_y on the sampled token.
    """

    formula: ClassVar[str] = "1_S Q~_j - P_j, S the teacher's top-k; top_k=0: r_y (e_y - P)"
    source: ClassVar[str] = (
        "tinker-cookbook 0.6.1 distillation/sdft.py:299 build_topk_distillation_datums;"
        " arXiv 2601.19897"
    )

    top_k: int = option(20, "size of the teacher's top set; 0 for the sampled token", low=0)
    skip_first: int = skip_first_option(3)

    def draws(self, batch: NodeBatch) -> Draws:
        """Return r_y."""
        return log_ratio_draws(batch.at(1.0))

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient of the cross-entropy."""
        if self.top_k == 0:
            return super().expected(batch)
        nodes = batch.at(1.0)
        own = within(nodes, nodes.top("teacher", self.top_k))
        q_NS = own.spread(own.nodes.q_NS)
        nothing_N = np.zeros(batch.num_nodes)
        ascent_NS = pulled(q_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)
        return scaled(nodes, ascent_NS, nodes.unit_N)

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return r_y (e_y - P); the cross-entropy looks at no sample."""
        return super().sampled(batch) if self.top_k == 0 else self.expected(batch)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance of r_y (e_y - P), or 0 for the cross-entropy, [N]."""
        if self.top_k == 0:
            return super().squared_deviation(batch)
        return np.zeros(batch.num_nodes)
