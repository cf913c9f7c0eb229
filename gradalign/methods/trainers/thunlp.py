"""What the trainer of thunlp/OPD applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Support
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import pulled
from gradalign.methods.registry import register
from gradalign.methods.sampled import scaled

STRATEGIES: dict[str, Support] = {
    "only_stu": "student",
    "only_tch": "teacher",
    "intersection": "intersection",
    "union": "union",
}


@register("thunlp/opd")
@dataclass(frozen=True)
class ThunlpOPD(Method):
    """Token rewards of "Rethinking On-Policy Distillation" on top tokens, as advantages.

    The weights are renormalised on the set, the log ratio that they multiply is not.
    """

    formula: ClassVar[str] = "1_S A_j - P_j sum over S of A, A_j = w_j r_j, w = p~ or q~ on S"
    source: ClassVar[str] = "thunlp/OPD; arXiv 2604.13016"

    top_k: int = option(16, "LOG_PROB_TOP_K", low=1)
    strategy: str = option("only_stu", "TOP_K_STRATEGY", choices=tuple(STRATEGIES))
    weight: str = option("student_p", "REWARD_WEIGHT_MODE", choices=("student_p", "teacher_p"))

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the sum over the set of A_j (e_j - P)."""
        nodes = batch.at(1.0)
        inside_NS = nodes.top_set(STRATEGIES[self.strategy], self.top_k)
        log_NS = nodes.log_p_NS if self.weight == "student_p" else nodes.log_q_NS
        kept_NS = np.where(inside_NS, log_NS, -np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight_NS = np.exp(kept_NS - kept_NS.max(axis=1)[:, None])
            weight_NS /= weight_NS.sum(axis=1)[:, None]
            reward_NS = weight_NS * nodes.r_NS
        # 0 log 0: a token without weight has no reward, however unlikely to the other model.
        reward_NS[weight_NS == 0.0] = 0.0
        nothing_N = np.zeros(batch.num_nodes)
        ascent_NS = pulled(reward_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)
        return scaled(nodes, ascent_NS, nodes.unit_N, set_reasons(inside_NS, renormalises=False))
