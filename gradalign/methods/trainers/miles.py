"""What miles applies where it distills on top tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Bools, Distributions
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken

STRATEGIES = ("only-student", "only-teacher", "intersection", "union", "xor")


@register("miles/opd_topk")
@dataclass(frozen=True)
class MilesTopK(SampledToken):
    """The top-k reverse KL of `--opd-log-prob-top-k`, taken off the sampled token's advantage.

    The sum over the set is one number, whatever token was sampled: on average it moves nothing. Its
    single-sample direction pushes what was sampled down where the models differ.
    """

    formula: ClassVar[str] = "single-sample: sum over S of w r (e_y - P); on average 0"
    source: ClassVar[str] = (
        "miles at 31f1ca96, rollout/on_policy_distillation.py:259 _compute_topk_reverse_kl and"
        " loss_hub/opd.py:54; its issue 2362"
    )
    zero_reason: ClassVar[str] = "a weight that does not depend on the token averages to nothing"

    top_k: int = option(16, "opd_log_prob_top_k", low=1)
    strategy: str = option("only-student", "opd_top_k_strategy", choices=STRATEGIES)
    weight: str = option(
        "student_p", "opd_reward_weight_mode", choices=("student_p", "teacher_p", "none")
    )

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the same number for every token of a node."""
        nodes = batch.at(1.0)
        inside_NS = self._set(nodes)
        log_NS = {"student_p": nodes.log_p_NS, "teacher_p": nodes.log_q_NS}.get(
            self.weight, np.zeros(nodes.log_p_NS.shape)
        )
        kept_NS = np.where(inside_NS, log_NS, -np.inf)
        if self.strategy != "xor":  # whose weights the trainer does not normalise
            with np.errstate(invalid="ignore"):
                kept_NS -= kept_NS.max(axis=1)[:, None]
        weight_NS = np.nan_to_num(np.exp(kept_NS))
        if self.strategy != "xor":
            weight_NS /= np.maximum(weight_NS.sum(axis=1), 1e-300)[:, None]
        with np.errstate(invalid="ignore"):
            reward_N = np.where(weight_NS > 0.0, weight_NS * nodes.r_NS, 0.0).sum(axis=1)
        mean_NS = np.repeat(reward_N, nodes.p_NS.shape[1]).reshape(nodes.p_NS.shape)
        return Draws(nodes, mean_NS, reward_N)

    def _set(self, nodes: Distributions) -> Bools:
        own_NS = nodes.top("student", self.top_k)
        if self.strategy == "only-student":
            return own_NS
        other_NS = nodes.top("teacher", self.top_k)
        if self.strategy == "only-teacher":
            return other_NS
        if self.strategy == "intersection":
            return own_NS & other_NS
        return own_NS | other_NS if self.strategy == "union" else own_NS ^ other_NS
