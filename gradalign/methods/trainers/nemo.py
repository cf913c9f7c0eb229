"""What NeMo-RL's distillation loss applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import OnSet, centred, divergence, pulled, within
from gradalign.methods.registry import register
from gradalign.methods.sampled import scaled

OUTSIDE = -100.0
"""Log probability that the teacher is taken to give tokens outside its top-k."""


@register("nemo/distillation")
@dataclass(frozen=True)
class NemoDistillation(Method):
    """DistillationLossFn: a weighted sum of both KLs on the teacher's top-k, which is no JSD.

    Both models are renormalised on the set. With `zero_outside_topk` the student is not, and the
    reverse KL counts what it spends outside against a teacher of probability exp(-100) there.
    """

    formula: ClassVar[str] = (
        "w (Q~_j - P~_j) + (1-w) P~_j (r~_j + KL); zero_outside_topk: w (1_S Q~_j - P_j)"
        " + (1-w) P_j (f_j - fbar), f_j = log Q~_j/P_j on S, -100 - log P_j outside"
    )
    source: ClassVar[str] = (
        "NeMo-RL at 7ea279ab, nemo_rl/algorithms/loss/loss_functions.py:1124 DistillationLossFn"
    )

    kl_type: str = option("mixed", "which KL", choices=("forward", "reverse", "mixed"))
    mixed_kl_weight: float = option(0.5, "weight of the forward KL (mixed)", low=0.0, high=1.0)
    top_k: int = option(64, "topk_logits_k, the teacher's", low=1)
    zero_outside_topk: bool = option(False, "count what the student spends outside the set")

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient on the teacher's top-k, or over the vocabulary."""
        nodes = batch.at(1.0)
        inside_NS = nodes.top("teacher", self.top_k)
        own = within(nodes, inside_NS)
        forward = {"forward": 1.0, "reverse": 0.0}.get(self.kl_type, self.mixed_kl_weight)
        parts = []
        if forward > 0.0:
            parts.append(forward * self._forward(nodes, own))
        if forward < 1.0:
            parts.append((1.0 - forward) * self._reverse(nodes, own))
        ascent_NS = sum(parts[1:], start=parts[0])
        if self.zero_outside_topk:
            return scaled(nodes, ascent_NS, nodes.unit_N)
        reason_N = set_reasons(inside_NS, renormalises=True)
        return scaled(nodes, own.spread(ascent_NS), own.nodes.unit_N, reason_N)

    def _forward(self, nodes: Distributions, own: OnSet) -> Floats:
        if not self.zero_outside_topk:
            return divergence(own.nodes, 0.0)
        nothing_N = np.zeros(nodes.rows.shape)
        q_NS = own.spread(own.nodes.q_NS)
        return pulled(q_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)

    def _reverse(self, nodes: Distributions, own: OnSet) -> Floats:
        if not self.zero_outside_topk:
            return divergence(own.nodes, 1.0)
        log_q_NS = np.where(own.inside_NS, own.spread(own.nodes.log_q_NS), OUTSIDE)
        with np.errstate(invalid="ignore"):
            f_NS = log_q_NS - nodes.log_p_NS
        f_NS[nodes.p_NS == 0.0] = 0.0
        count_N = np.log(np.maximum(nodes.num_tail_N, 1))
        with np.errstate(invalid="ignore"):
            tail_f_N = np.where(nodes.tail_p_N > 0.0, OUTSIDE - nodes.log_tail_p_N + count_N, 0.0)
        return centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, tail_f_N)
