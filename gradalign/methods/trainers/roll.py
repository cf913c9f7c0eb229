"""What ROLL's distillation pipeline applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats
from gradalign.methods.gkd import on_teacher_top
from gradalign.methods.identities import centred, divergence
from gradalign.methods.registry import register

OBJECTIVES = (
    "forward_kl",
    "reverse_kl",
    "adaptive_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "js_divergence",
)


@register("roll/distill")
@dataclass(frozen=True)
class RollDistill(Method):
    """One of ROLL's divergences, both models renormalised on the teacher's top-k.

    - skewed_forward_kl: KL(Q || s Q + (1-s) P), and skewed_reverse_kl: KL(P || (1-s) Q + s P),
      s the skew, as in DistiLLM (arXiv 2402.03898).
    - adaptive_kl: both KLs, weighted by how far the models are apart on the teacher's likely
      tokens (forward) and on its unlikely ones (reverse), as in AKL (arXiv 2404.02657). Unlikely
      are those that together have at most `alpha` of its mass.
    - js_divergence is halfway between both KLs. The trainer adds 1e-9 in its logarithms.
    """

    formula: ClassVar[str] = (
        "on S renormalised: P_j (f_j - fbar), f_j = (1-s) Q_j/M_j (skewed forward),"
        " log(M_j/P_j) + s P_j/M_j (skewed reverse); h (Q_j - P_j) + (1-h) P_j (r_j + KL)"
        " (adaptive); as gkd (others)"
    )
    source: ClassVar[str] = "ROLL at 8eb27cc2, roll/pipeline/distill/various_divergence.py"

    objective: str = option("forward_kl", "kd_objective", choices=OBJECTIVES)
    top_k: int = option(64, "logits_topk, the teacher's; 0 for the whole vocabulary", low=0)
    skew: float = option(0.1, "skew_lambda", low=0.0, high=1.0)
    alpha: float = option(0.5, "adaptive_kl_alpha", low=0.0, high=1.0)
    temperature: float = option(
        1.0, "kd_temperature and teacher_temperature", low=0.0, open_low=True
    )

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient of the objective."""
        return on_teacher_top(batch.at(self.temperature), self.top_k, self._direction)

    def _direction(self, nodes: Distributions) -> Floats:
        if self.objective == "adaptive_kl":
            head_N = _share_of_head(nodes, self.alpha)[:, None]
            return head_N * divergence(nodes, 0.0) + (1.0 - head_N) * divergence(nodes, 1.0)
        if self.objective.startswith("skewed"):
            f_NS, tail_f_N = (self._skewed(r) for r in (nodes.r_NS, nodes.tail_r_N))
            return centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, tail_f_N)
        beta = {"forward_kl": 0.0, "reverse_kl": 1.0, "js_divergence": 0.5}[self.objective]
        return divergence(nodes, beta)

    def _skewed(self, r: Floats) -> Floats:
        """Return f of a skewed KL as a function of r."""
        ratio = np.exp(np.minimum(r, 700.0))
        if self.objective == "skewed_forward_kl":
            return np.asarray((1.0 - self.skew) * ratio / (self.skew * ratio + 1.0 - self.skew))
        mixed = (1.0 - self.skew) * ratio + self.skew  # M/P
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(mixed) + self.skew / mixed)


def _share_of_head(nodes: Distributions, alpha: float) -> Floats:
    """Return the forward KL's weight of AKL: the gap on likely tokens over the whole gap, [N].

    The tail, which comes first in order of probability, counts as one token.
    """
    order_NS = np.argsort(nodes.q_NS, axis=1, kind="stable")
    q_NS = np.take_along_axis(nodes.q_NS, order_NS, axis=1)
    gap_NS = np.abs(q_NS - np.take_along_axis(nodes.p_NS, order_NS, axis=1))
    head_NS = np.cumsum(q_NS, axis=1) + nodes.tail_q_N[:, None] > alpha
    head_N = np.vecdot(gap_NS, head_NS.astype(np.float64))
    whole_N = gap_NS.sum(axis=1) + np.abs(nodes.tail_q_N - nodes.tail_p_N)
    return np.asarray(head_N / np.where(whole_N > 0.0, whole_N, 1.0))
