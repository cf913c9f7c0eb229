"""Group-relative policy gradient without length or deviation normalisation: the ideal, scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats
from gradalign.methods.registry import register
from gradalign.methods.returns import Outcomes, continuations_of, spines_of
from gradalign.methods.sampled import Draws, SampledToken


@register("dr_grpo")
@dataclass(frozen=True)
class DrGRPO(SampledToken):
    """Dr. GRPO: A_i (e_y - P) with A_i = R_i - mean R over a group of G responses.

    On average this is (G - 1) / G times the ideal gradient, as a response is part of the mean
    that it is compared with. `expected` takes V_j from the continuations, and is therefore
    cross-fitted; `sampled` takes the spine's own reward and its group's mean. The variance counts
    the reward's own spread and that of the group's mean, the latter as for rewards of 0 and 1.
    """

    formula: ClassVar[str] = "(G-1)/G P_j (V_j - Vbar); single-sample (R_i - mean R) (e_y - P)"
    source: ClassVar[str] = "Liu et al., arXiv 2503.20783; TRL 1.16 GRPOTrainer, loss_type=dr_grpo"
    zero_reason: ClassVar[str] = "flat, all rewards are equal"

    group: int = option(8, "responses per question", low=2)

    @property
    def expected_needs(self) -> frozenset[str]:
        """Rewards of continuations; no teacher."""
        return frozenset({"continuations"})

    @property
    def sampled_needs(self) -> frozenset[str]:
        """The spine's reward and its group's mean."""
        return frozenset({"spine"})

    @property
    def ideal_multiple(self) -> float:
        """(G - 1) / G, as a response is part of the mean that it is compared with."""
        return (self.group - 1.0) / self.group

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the mean advantage of each token and its mean square."""
        nodes, rolled = batch.at(1.0), continuations_of(batch)
        found = Outcomes(nodes, rolled)
        value_NS, value_N = found.mean(rolled.reward_K)
        base_N = value_N if batch.spines is None else batch.spines.group_mean_N
        # Of a group without any reward only the continuations' are known.
        base_N = np.where(np.isnan(base_N), value_N, base_N)
        share = (self.group - 1.0) / self.group

        def second() -> tuple[Floats, Floats]:
            square_NS, square_N = found.mean(rolled.reward_K**2)
            level_N = base_N * base_N + base_N * (1.0 - base_N) / (self.group - 1.0)
            spread_NS = square_NS + level_N[:, None] - 2.0 * value_NS * base_N[:, None]
            spread_N = square_N + level_N - 2.0 * value_N * base_N
            return share * share * spread_NS, share * share * spread_N

        return Draws(
            nodes,
            share * (value_NS - base_N[:, None]),
            share * (value_N - base_N),
            second=second,
            reason_N=found.reason_N,
        )

    def drawn(self, batch: NodeBatch) -> Draws:
        """Return the advantage of the node's own spine."""
        nodes, spines = batch.at(1.0), spines_of(batch)
        nothing_NS = np.zeros(nodes.log_p_NS.shape)
        advantage_N = spines.reward_N - spines.group_mean_N
        return Draws(nodes, nothing_NS, np.zeros(batch.num_nodes), drawn_N=advantage_N)
