"""Divergences over the whole vocabulary or a teacher's top tokens: GKD and self-distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import (
    Ascent,
    Method,
    Reasons,
    no_reasons,
    option,
    per_option,
    skip_first_option,
)
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Bools, Distributions, Floats
from gradalign.methods.identities import clipped, divergence, within
from gradalign.methods.registry import register
from gradalign.methods.sampled import scaled

SINGLE = "zero_method:one token renormalised has probability 1 whatever the logits"
EMPTY = "zero_method:the intersection of the two top sets is empty"


def set_reasons(inside_NS: Bools, *, renormalises: bool) -> Reasons:
    """Return the reasons why a loss on a set of tokens is zero: too few of them."""
    size_N = inside_NS.view(np.uint8).sum(axis=1, dtype=np.uint32)
    reason_N = no_reasons(inside_NS.shape[0])
    if renormalises:
        reason_N[size_N == 1] = SINGLE
    reason_N[size_N == 0] = EMPTY
    return reason_N


def on_teacher_top(
    nodes: Distributions, top_k: int, direction: Callable[[Distributions], Floats]
) -> Ascent:
    """Return a direction with both models renormalised on the teacher's top-k; 0 for no set."""
    if top_k == 0:
        return scaled(nodes, direction(nodes), nodes.unit_N)
    inside_NS = nodes.top("teacher", top_k)
    own = within(nodes, inside_NS)
    ascent_NS = own.spread(direction(own.nodes))
    return scaled(nodes, ascent_NS, own.nodes.unit_N, set_reasons(inside_NS, renormalises=True))


@register("gkd")
@dataclass(frozen=True)
class GKD(Method):
    """Generalised Jensen-Shannon divergence between student and teacher.

    beta KL(Q||M) + (1 - beta) KL(P||M) with M = beta Q + (1 - beta) P; TRL's convention, in
    which 0 is the forward KL(Q||P) and 1 the reverse KL(P||Q).
    """

    formula: ClassVar[str] = (
        "(1-beta) P_j (log(M_j/P_j) + KL(P||M)); Q_j - P_j at beta=0, P_j (r_j + KL(P||Q)) at 1"
    )
    source: ClassVar[str] = "Agarwal et al., arXiv 2306.13649; TRL 1.16 generalized_jsd_loss"

    beta: float = option(0.5, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    temperature: float = option(1.0, "divides both models' logits", low=0.0, open_low=True)
    skip_first: int = skip_first_option()
    per: str = per_option()

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the whole vocabulary."""
        nodes = batch.at(self.temperature)
        return scaled(nodes, divergence(nodes, self.beta), nodes.unit_N)


@register("opsd")
@dataclass(frozen=True)
class OPSD(Method):
    """On-policy self-distillation; the teacher is the student shown privileged information.

    A generalised Jensen-Shannon divergence at temperature 1.1 on both sides, over the whole
    vocabulary or renormalised on the teacher's `top_k` tokens. Use it with a teacher that is
    `self+CONTEXT`.

    Every token's summand is clipped at `clip` before the sum, so that no matter of style takes
    over. What the teacher wants most is then clipped first, and so is pushed down with the rest:
    a node's update can turn round. `beta=0.5,clip=0` is the first version, of March 2026.
    """

    formula: ClassVar[str] = (
        "1_U Q_j - Q(U) P_j at temperature T, U the tokens with Q_j r_j <= clip; clip=0: as gkd;"
        " with top_k, on the teacher's top-k renormalised"
    )
    source: ClassVar[str] = (
        "Zhao et al., On-Policy Self-Distillation, arXiv 2601.18734v3; siyan-zhao/OPSD, issues 2,"
        " 14 and 24 (beta 0, jsd_token_clip 0.05); at 590ec26 beta 0.5 without a clip"
    )

    beta: float = option(0.0, "0 forward KL, 1 reverse KL", low=0.0, high=1.0)
    clip: float = option(0.05, "largest summand of a token; 0 for none", low=0.0)
    temperature: float = option(1.1, "divides both models' logits", low=0.0, open_low=True)
    top_k: int = option(0, "keep the teacher's top tokens only; 0 for all", low=0)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient of the divergence, renormalised on the teacher's top-k if asked."""
        return on_teacher_top(batch.at(self.temperature), self.top_k, self._direction)

    def _direction(self, nodes: Distributions) -> Floats:
        return clipped(nodes, self.beta, self.clip) if self.clip else divergence(nodes, self.beta)
