"""What verl's distillation losses apply."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.methods.base import Ascent, Method, no_reasons, option
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Distributions, Floats
from gradalign.methods.identities import bucketed, centred, pulled
from gradalign.methods.registry import register
from gradalign.methods.sampled import Draws, SampledToken, scaled

SOURCE = "verl trainer/distillation/losses.py at 01dcf9f0, and its kl_penalty"
K3_LIMIT = 10.0
"""kl_penalty clamps k3 to [-10, 10]; beyond, no gradient flows."""


@dataclass(frozen=True)
class _Estimator(SampledToken):
    """A single-sample estimate of the reverse KL, used as a loss or as a reward.

    `mode=direct` differentiates the estimate at the drawn token (use_policy_gradient=false);
    `mode=pg` takes minus the estimate as a detached advantage (use_policy_gradient=true). On
    policy the importance ratio is 1 and PPO's clipping has no effect.
    """

    source: ClassVar[str] = SOURCE
    zero_reason: ClassVar[str] = "the weights are clamped, zero, or the same for every token"

    mode: str = option(
        "direct",
        "direct differentiates the estimate; pg takes minus it as a detached advantage",
        choices=("direct", "pg"),
    )
    max_clamp: float = option(float("inf"), "loss_max_clamp", low=0.0, open_low=True)

    @abstractmethod
    def loss(self, log_ratio: Floats) -> Floats:
        """Return the estimate of the KL."""

    @abstractmethod
    def slope(self, log_ratio: Floats) -> Floats:
        """Return minus its derivative by the student's log probability."""

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the slope or the reward of each token."""
        nodes = batch.at(1.0)
        return Draws(nodes, self._weight(nodes.r_NS), self._weight(nodes.tail_r_N))

    def _weight(self, log_ratio: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            loss = self.loss(log_ratio)
            if self.mode == "pg":
                return -np.clip(loss, -self.max_clamp, self.max_clamp)
            slope = self.slope(log_ratio)
            if np.isinf(self.max_clamp):
                return slope
            return np.where(np.abs(loss) <= self.max_clamp, slope, 0.0)


@register("verl/k1")
@dataclass(frozen=True)
class K1(_Estimator):
    """loss_mode k1 (kl): -r. Differentiated it has no teacher in it and averages to zero."""

    formula: ClassVar[str] = "direct: -(e_y - P), 0 on average; pg: r_y (e_y - P)"
    zero_reason: ClassVar[str] = "a weight that does not depend on the token averages to nothing"

    def loss(self, log_ratio: Floats) -> Floats:
        """Return -r."""
        return -log_ratio

    def slope(self, log_ratio: Floats) -> Floats:
        """Return -1, whatever the teacher says."""
        return np.full(log_ratio.shape, -1.0)


@register("verl/k2")
@dataclass(frozen=True)
class K2(_Estimator):
    """loss_mode k2 (mse): r^2 / 2. Differentiated it averages to the reverse KL."""

    formula: ClassVar[str] = "direct: r_y (e_y - P); pg: -r_y^2 / 2 (e_y - P)"

    def loss(self, log_ratio: Floats) -> Floats:
        """Return r^2 / 2."""
        return np.asarray(0.5 * log_ratio * log_ratio)

    def slope(self, log_ratio: Floats) -> Floats:
        """Return r."""
        return log_ratio


@register("verl/k3")
@dataclass(frozen=True)
class K3(_Estimator):
    """loss_mode k3 (low_var_kl): Q/P - 1 - r, clamped at 10, where its gradient stops.

    Differentiated it averages to the FORWARD KL while no clamp is hit.
    """

    formula: ClassVar[str] = (
        "direct: (Q_y/P_y - 1) 1[k3 < 10] (e_y - P); pg: -min(k3, 10) (e_y - P), k3 = Q/P - 1 - r"
    )

    def loss(self, log_ratio: Floats) -> Floats:
        """Return the clamped estimate."""
        return np.minimum(_k3(log_ratio), K3_LIMIT)

    def slope(self, log_ratio: Floats) -> Floats:
        """Return Q/P - 1 below the clamp."""
        return np.where(_k3(log_ratio) < K3_LIMIT, np.expm1(log_ratio), 0.0)


@register("verl/abs")
@dataclass(frozen=True)
class Abs(_Estimator):
    """loss_mode abs: |r|."""

    formula: ClassVar[str] = "direct: sign(r_y) (e_y - P); pg: -|r_y| (e_y - P)"

    def loss(self, log_ratio: Floats) -> Floats:
        """Return |r|."""
        return np.abs(log_ratio)

    def slope(self, log_ratio: Floats) -> Floats:
        """Return the sign of r."""
        return np.sign(log_ratio)


@register("verl/forward_kl_topk")
@dataclass(frozen=True)
class ForwardKLTopK(Method):
    """loss_mode forward_kl_topk, differentiated: sum over the teacher's top-k of Q log(Q/P).

    Neither renormalised nor given a tail; the loss is clamped at 0 from below, so that a node
    where it is negative has no gradient.
    """

    formula: ClassVar[str] = "1_S Q_j - Q(S) P_j, and zero where sum over S of Q log(Q/P) < 0"
    source: ClassVar[str] = (
        "verl trainer/distillation/fsdp/losses.py at 072cf9bd, compute_forward_kl_topk"
    )

    top_k: int = option(32, "size of the teacher's top set", low=1)
    max_clamp: float = option(float("inf"), "loss_max_clamp", low=0.0, open_low=True)
    log_prob_min: float = option(float("-inf"), "log_prob_min_clamp", high=0.0)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the vocabulary."""
        nodes = batch.at(1.0)
        pull_NS, loss_N = _forward_sum(nodes, self.top_k, self.log_prob_min)
        nothing_N = np.zeros(batch.num_nodes)
        ascent_NS = pulled(pull_NS, nodes.p_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)
        reason_N = no_reasons(batch.num_nodes)
        reason_N[pull_NS.max(axis=1) == 0.0] = "zero_method:every log probability is clamped"
        reason_N[loss_N < 0.0] = "zero_method:the loss is negative and clamped at 0"
        reason_N[loss_N > self.max_clamp] = "zero_method:the loss is clamped from above"
        reason_N[loss_N == np.inf] = (
            "undefined_method:the student gives no probability to a token of the teacher's"
        )
        return scaled(nodes, ascent_NS, nodes.unit_N, reason_N)


@register("verl/forward_kl_topk_tail")
@dataclass(frozen=True)
class ForwardKLTopKTail(Method):
    """loss_mode forward_kl_topk_tail: the teacher's top-k and one bucket for everything else.

    A proper KL, so that it is never negative and nothing is clamped.
    """

    formula: ClassVar[str] = "1_S Q_j + 1_notS P_j (1 - Q(S)) / (1 - P(S)) - P_j"
    source: ClassVar[str] = "verl pull request 7855 and issue 7856, open in September 2026"

    top_k: int = option(128, "size of the teacher's top set", low=1)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the vocabulary."""
        nodes = batch.at(1.0)
        ascent_NS = bucketed(nodes, nodes.top("teacher", self.top_k), 0.0)
        return scaled(nodes, ascent_NS, nodes.unit_N)


@register("verl/reverse_kl_topk")
@dataclass(frozen=True)
class ReverseKLTopK(Method):
    """loss_mode reverse_kl_topk: sum over the student's top-k of P log(P/Q), clamped at 0.

    Neither renormalised nor given a tail. The clamp is inherited from the forward form: where the
    teacher has more mass on the set than the student, the sum is negative and nothing is learnt.
    """

    formula: ClassVar[str] = (
        "P_j (f_j - fbar), f_j = 1_S (r_j - 1); zero where sum over S of P log(P/Q) < 0"
    )
    source: ClassVar[str] = "verl pull requests 7590 and 7806, open in September 2026"

    top_k: int = option(128, "size of the student's top set", low=1)
    max_clamp: float = option(float("inf"), "loss_max_clamp", low=0.0, open_low=True)
    log_prob_min: float = option(float("-inf"), "log_prob_min_clamp", high=0.0)

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the gradient over the vocabulary."""
        nodes = batch.at(1.0)
        f_NS, loss_N = _reverse_sum(nodes, self.top_k, self.log_prob_min)
        nothing_N = np.zeros(batch.num_nodes)
        ascent_NS = centred(nodes.p_NS, f_NS, nodes.anchor_N, nodes.tail_p_N, nothing_N)
        reason_N = no_reasons(batch.num_nodes)
        reason_N[loss_N < 0.0] = "zero_method:the loss is negative and clamped at 0"
        reason_N[loss_N > self.max_clamp] = "zero_method:the loss is clamped from above"
        return scaled(nodes, ascent_NS, nodes.unit_N, reason_N)


@register("verl/topk_reward")
@dataclass(frozen=True)
class TopKReward(SampledToken):
    """A top-k KL taken as a reward (use_policy_gradient=true): one number for whatever was drawn.

    The sum over the set does not depend on the sampled token, so that on average it moves nothing.
    Its single-sample direction pushes what was sampled down where the models differ.
    """

    formula: ClassVar[str] = "single-sample: -(the set's KL) (e_y - P); on average 0"
    source: ClassVar[str] = "verl 0.9.1 trainer/distillation/losses.py, distillation_loss"
    zero_reason: ClassVar[str] = "a weight that does not depend on the token averages to nothing"

    loss_mode: str = option(
        "forward_kl_topk", "loss_mode", choices=("forward_kl_topk", "reverse_kl_topk")
    )
    top_k: int = option(32, "topk", low=1)
    max_clamp: float = option(float("inf"), "loss_max_clamp", low=0.0, open_low=True)
    log_prob_min: float = option(float("-inf"), "log_prob_min_clamp", high=0.0)

    def draws(self, batch: NodeBatch) -> Draws:
        """Return the same number for every token of a node."""
        nodes = batch.at(1.0)
        sums = _forward_sum if self.loss_mode == "forward_kl_topk" else _reverse_sum
        _, loss_N = sums(nodes, self.top_k, self.log_prob_min)
        reward_N = -np.clip(loss_N, 0.0, self.max_clamp)
        mean_NS = np.repeat(reward_N, nodes.p_NS.shape[1]).reshape(nodes.p_NS.shape)
        return Draws(nodes, mean_NS, reward_N)


def _forward_sum(nodes: Distributions, top_k: int, least: float) -> tuple[Floats, Floats]:
    """Return the weights of the tokens pulled up, [N, S], and the loss before clamps, [N]."""
    inside_NS = nodes.top("teacher", top_k)
    q_NS = np.where(inside_NS, nodes.q_NS, 0.0)
    pull_NS, gap_NS = q_NS, nodes.r_NS
    if np.isfinite(least):
        log_q_NS = np.maximum(nodes.log_q_NS, least)
        gap_NS = log_q_NS - np.maximum(nodes.log_p_NS, least)
        q_NS = np.where(inside_NS, np.exp(log_q_NS), 0.0)
        # A clamped log probability is a constant: its token pulls no longer.
        pull_NS = np.where(nodes.log_p_NS >= least, q_NS, 0.0)
    with np.errstate(invalid="ignore"):
        gap_NS = np.where(q_NS > 0.0, gap_NS, 0.0)
    loss_N = np.vecdot(q_NS, gap_NS)
    if np.isinf(least):
        loss_N[((nodes.log_p_NS == -np.inf) & (q_NS > 0.0)).any(axis=1)] = np.inf
    return pull_NS, loss_N


def _reverse_sum(nodes: Distributions, top_k: int, least: float) -> tuple[Floats, Floats]:
    """Return the f of L1, [N, S], and the loss before clamps, [N]."""
    inside_NS = nodes.top("student", top_k) & (nodes.p_NS > 0.0)
    gap_NS = nodes.r_NS
    p_NS = np.where(inside_NS, nodes.p_NS, 0.0)
    moves_NS = inside_NS
    if np.isfinite(least):
        log_p_NS = np.maximum(nodes.log_p_NS, least)
        gap_NS = np.maximum(nodes.log_q_NS, least) - log_p_NS
        p_NS = np.where(inside_NS, np.exp(log_p_NS), 0.0)
        # A clamped log probability is a constant.
        moves_NS = inside_NS & (nodes.log_p_NS >= least)
    with np.errstate(invalid="ignore"):
        loss_N = -np.where(inside_NS, p_NS * gap_NS, 0.0).sum(axis=1)
        f_NS = np.where(moves_NS, gap_NS - 1.0, 0.0)
    return f_NS, loss_N


def _k3(log_ratio: Floats) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        value = np.expm1(log_ratio) - log_ratio
    return np.where(np.isfinite(log_ratio), value, np.inf)
