"""What TorchRL's DistillationLoss applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option, per_option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken


@register("torchrl/distillation")
@dataclass(frozen=True)
class TorchRLDistillation(SampledToken):
    """DistillationLoss: the k3 estimate, differentiated at the sampled token.

    Its "reverse" direction averages to the FORWARD KL over the student's tokens, as its docstring
    says. The other one is meant for the teacher's tokens, and is taken over the student's here.
    """

    formula: ClassVar[str] = "reverse: (Q_y/P_y - 1) (e_y - P), on average Q_j - P_j"
    source: ClassVar[str] = (
        "TorchRL 0.14.1 torchrl/objectives/llm/distillation.py:25 k3_kl_token_estimate"
    )

    kl_direction: str = option("reverse", "kl_direction", choices=("reverse", "forward"))
    per: str = per_option("sequence")

    def draws(self, batch: NodeBatch) -> Draws:
        """Return minus the slope of the estimate at each token."""
        nodes = batch.at(1.0)
        return Draws(nodes, self._slope(nodes.r_NS), self._slope(nodes.tail_r_N))

    def _slope(self, log_ratio: Floats) -> Floats:
        with np.errstate(over="ignore"):
            if self.kl_direction == "reverse":
                return np.asarray(np.expm1(log_ratio))
            return np.asarray(-np.expm1(-log_ratio))
