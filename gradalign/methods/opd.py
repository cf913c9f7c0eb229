"""Reverse KL on the student's own tokens, sampled or over a truncated set of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from gradalign.methods.base import Ascent, option, per_option, skip_first_option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats, Support
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import bucketed, centred, renormalised
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken, scaled


def log_ratio_draws(nodes: Distributions) -> Draws:
    """Weigh the drawn token by r_y: on average the gradient of the full reverse KL."""
    return Draws(nodes, nodes.r_NS, nodes.tail_r_N)


@register("opd")
@dataclass(frozen=True)
class OPD(SampledToken):
    """Reverse KL of on-policy distillation, by the sampled token or on top tokens.

    Without `top_k` it is the sampled-token form of Thinking Machines: r_y (e_y - P), whose
    average over y is the full reverse KL. With `top_k` it is the reverse KL on a set S:

    - `norm=renorm`: both models renormalised on S, the second fix of arXiv 2605.11182 and, with
      support=teacher and top_k=32, the local support matching of arXiv 2603.25562.
    - `norm=tail`: S and one bucket for everything else.
    - `norm=none`: the sum over S of P log(P/Q) as it is. Its gradient has f_j = r_j - 1 on S, so
      that a token is promoted over those outside only if Q_j > e P_j. `stop_gradient=true`
      detaches the log ratio, f_j = r_j, the first fix of arXiv 2605.11182.

    The first two are the same with and without `stop_gradient`.

    Where responses are drawn at another `sampling_temperature` than the loss's, each token weighs
    its ratio of probabilities, at most `importance_cap`. At the same temperature the ratio is 1 on
    the first step, and a cap of 1 or more does nothing.
    """

    formula: ClassVar[str] = (
        "r_y (e_y - P), on average P_j (r_j + KL); top_k: P_j (f_j - fbar), f_j = 1_S (r_j - 1)"
        " (none), 1_S r_j (none, stop_gradient), r~_j on S (renorm), r_j and r_tail (tail)"
    )
    source: ClassVar[str] = (
        "Thinking Machines, On-Policy Distillation; arXiv 2605.11182 (intersection, top_k=20);"
        " arXiv 2604.13016 (student, top_k=16); arXiv 2603.25562 (teacher, top_k=32, renorm)"
    )

    top_k: int = option(0, "size of each model's top set; 0 for the sampled-token form", low=0)
    support: str = option(
        "student",
        "whose top tokens make up S",
        choices=("student", "teacher", "union", "intersection"),
    )
    norm: str = option("renorm", "what is done about the rest", choices=("renorm", "tail", "none"))
    stop_gradient: bool = option(False, "detach the log ratio (matters for norm=none)")
    temperature: float = option(1.0, "divides both models' logits", low=0.0, open_low=True)
    sampling_temperature: float = option(
        0.0, "temperature at which tokens are drawn (top_k=0); 0 for the loss's", low=0.0
    )
    importance_cap: float = option(
        float("inf"), "largest ratio of P to what tokens are drawn from (top_k=0)", low=0.0
    )
    skip_first: int = skip_first_option()
    per: str = per_option()

    def draws(self, batch: NodeBatch) -> Draws:
        """Return r_y, times the capped ratio where tokens are not drawn from P itself."""
        nodes = batch.at(self.temperature)
        drawn = batch.at(self.sampling_temperature or self.temperature)
        if drawn is nodes and self.importance_cap >= 1.0:
            return log_ratio_draws(nodes)
        with np.errstate(over="ignore", invalid="ignore"):
            ratio_NS = np.exp(nodes.log_p_NS - drawn.log_p_NS)
            ratio_N = np.exp(nodes.log_tail_p_N - drawn.log_tail_p_N)
        ratio_NS[nodes.p_NS == 0.0], ratio_N[nodes.tail_p_N == 0.0] = 0.0, 0.0
        return Draws(
            nodes,
            np.minimum(ratio_NS, self.importance_cap) * nodes.r_NS,
            np.minimum(ratio_N, self.importance_cap) * nodes.tail_r_N,
            draw_NS=drawn.p_NS,
            draw_tail_N=drawn.tail_p_N,
        )

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the full or the truncated reverse-KL gradient."""
        if self.top_k == 0:
            return super().expected(batch)
        nodes = batch.at(self.temperature)
        inside_NS = nodes.top_set(cast(Support, self.support), self.top_k)
        reason_N = set_reasons(inside_NS, renormalises=self.norm == "renorm")
        unit_N = nodes.unit_N
        if self.norm == "renorm":
            ascent_NS, unit_N = renormalised(nodes, inside_NS, 1.0)
        elif self.norm == "tail":
            ascent_NS = bucketed(nodes, inside_NS, 1.0)
        else:
            own = 0.0 if self.stop_gradient else 1.0
            f_NS = np.where(inside_NS, nodes.r_NS - own, 0.0)
            nothing_N = np.zeros(batch.num_nodes)
            ascent_NS = centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)
        return scaled(nodes, ascent_NS, unit_N, reason_N)

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return r_y (e_y - P); a truncated set looks at no sample and stays as it is."""
        return super().sampled(batch) if self.top_k == 0 else self.expected(batch)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance of r_y (e_y - P), or 0 for a truncated set, [N]."""
        if self.top_k == 0:
            return super().squared_deviation(batch)
        return np.zeros(batch.num_nodes)
