"""What the Tinker cookbook applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gradalign.methods.base import Ascent, Method, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.gkd import set_reasons
from gradalign.methods.identities import renormalised
from gradalign.methods.registry import register
from gradalign.methods.sampled import scaled


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
