"""What the targeted rollouts of a question measured, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.branching.tree import PrefixTree
from gradalign.branching.values import estimate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NodePlan:
    """A node that was chosen, with its candidates.

    Attributes:
        spine: index of the spine among the question's spines.
        position: index of the token decided at this node.
        inclusion_prob: probability with which the node had to be chosen.
        token_ids_C: candidates, [C].
        prob_C: the student's probability of each, [C].
    """

    spine: int
    position: int
    inclusion_prob: float
    token_ids_C: Ints
    prob_C: Floats


@dataclass(frozen=True, eq=False)
class NodeEstimates:
    """What was measured, one row per `NodePlan`, padded to the most candidates: [N, C].

    Attributes:
        token_ids_NC: candidates, -1 at padding.
        prob_NC: the student's probability over the whole vocabulary, 0 at padding.
        mask_NC: True where V_j was measured.
        value_NC: unbiased V_j, NaN where not measured.
        var_NC: unbiased variance of `value_NC`; may be slightly negative.
        num_NC: continuations that count for the candidate.
        num_reused_NC: those of them that were forced elsewhere.
        mean_reward_NC, var_reward_NC: plain mean and sample variance of their rewards.
        num_truncated_NC: those of them cut off by the length limit.
        half_value_HNC: V_j from each half alone, [2, N, C]; NaN where a half is empty.
        inclusion_prob_N: from the plans.
        tree_node_N: which tree node a row is.
        slot_NC: which slot of it a candidate is, -1 at padding.
    """

    token_ids_NC: Ints
    prob_NC: Floats
    mask_NC: npt.NDArray[np.bool_]
    value_NC: Floats
    var_NC: Floats
    num_NC: Ints
    num_reused_NC: Ints
    mean_reward_NC: Floats
    var_reward_NC: Floats
    num_truncated_NC: Ints
    half_value_HNC: Floats
    inclusion_prob_N: Floats
    tree_node_N: Ints
    slot_NC: Ints


def node_estimates(
    tree: PrefixTree,
    plans: Sequence[NodePlan],
    placed: Sequence[tuple[int, Ints]],
    weights: Sequence[Floats],
    exact: Sequence[Floats],
    *,
    backup: bool,
) -> NodeEstimates:
    """Estimate everything and lay it out by plan.

    Args:
        tree: the counts.
        plans: the rows.
        placed: each row's tree node and the slots of its candidates.
        weights: per tree node, each round's weight for each slot, [R, slots].
        exact: per tree node, V_j where it is known without sampling, NaN elsewhere, [slots].
        backup: estimate values through the tree.
    """
    both, *halves = estimate(tree, weights, exact, halves=(None, 0, 1), backup=backup)
    rows, width = len(plans), max((len(slots) for _, slots in placed), default=0)
    token_ids_NC = np.full((rows, width), -1, dtype=np.int64)
    slot_NC = np.full((rows, width), -1, dtype=np.int64)
    prob_NC = np.zeros((rows, width))
    num_NC, reused_NC, cut_NC = (np.zeros((rows, width), dtype=np.int64) for _ in range(3))
    value_NC, var_NC, mean_NC, sample_NC = (np.full((rows, width), np.nan) for _ in range(4))
    half_HNC = np.full((2, rows, width), np.nan)
    for row, (plan, (node, slots)) in enumerate(zip(plans, placed, strict=True)):
        here = (row, slice(0, len(slots)))
        counts = tree.counts[node]
        n_C, forced_C, total_C, square_C, truncated_C = (
            sums.sum(axis=(0, 1))[slots]
            for sums in (counts.n, counts.forced, counts.total, counts.square, counts.truncated)
        )
        mean_C = total_C / np.maximum(n_C, 1)
        spread_C = np.maximum(square_C - n_C * mean_C**2, 0.0) / np.maximum(n_C - 1, 1)
        token_ids_NC[here], slot_NC[here], prob_NC[here] = plan.token_ids_C, slots, plan.prob_C
        num_NC[here], reused_NC[here], cut_NC[here] = n_C, n_C - forced_C, truncated_C
        value_NC[here], var_NC[here] = both[node].value[slots], both[node].var[slots]
        mean_NC[here] = np.where(n_C > 0, mean_C, np.nan)
        sample_NC[here] = np.where(n_C > 1, spread_C, np.nan)
        for half in (0, 1):
            half_HNC[half][here] = halves[half][node].value[slots]
    return NodeEstimates(
        token_ids_NC=token_ids_NC,
        prob_NC=prob_NC,
        mask_NC=np.isfinite(value_NC) & np.isfinite(var_NC),
        value_NC=value_NC,
        var_NC=var_NC,
        num_NC=num_NC,
        num_reused_NC=reused_NC,
        mean_reward_NC=mean_NC,
        var_reward_NC=sample_NC,
        num_truncated_NC=cut_NC,
        half_value_HNC=half_HNC,
        inclusion_prob_N=np.asarray([plan.inclusion_prob for plan in plans], dtype=np.float64),
        tree_node_N=np.asarray([node for node, _ in placed], dtype=np.int64),
        slot_NC=slot_NC,
    )
