"""From counts to success probabilities, with variances that hold.

Rounds. How many continuations a candidate gets in a round may depend on the rewards of earlier
rounds. The plain mean over all of them would then be biased (sampling more after a failure pulls
the mean towards chance). Here a candidate's value is sum_r weight_r mean_r, where the weights
sum to 1 and weight_r was fixed before round r was sampled. Each round's mean is unbiased given
the past, so the sum is; and errors of different rounds or candidates are uncorrelated.

Backing up. A continuation that goes on through a later node and takes one of its candidates is
one draw from what that node has measured much better. With `backup` its reward is replaced by
the later node's value sum_k p~_k V_k. Given which continuation took which token, that is the
conditional expectation of the replaced reward, estimated without bias from all data there: the
estimate stays unbiased, and the value of a spine's token is the value of the next node.

Axes: _R rounds, _C candidates of one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.branching.tree import Counts, PrefixTree, TreeNode

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateValues:
    """Value estimates at one tree node, each [C].

    Attributes:
        value: unbiased estimate of V_j; NaN where nothing was measured.
        var: unbiased estimate of the variance of `value`; it may be slightly negative under
            backing up, and is NaN where a round holds a single continuation.
        innovation: the part of `var` that this node's own continuations cause, per
            continuation: what one more of them would reduce.
    """

    value: Floats
    var: Floats
    innovation: Floats


def estimate(
    tree: PrefixTree,
    weights: Sequence[Floats],
    exact: Sequence[Floats],
    *,
    half: int | None = None,
    backup: bool = True,
) -> list[CandidateValues]:
    """Estimate V_j at every tree node.

    Args:
        tree: the counts.
        weights: per tree node, each round's weight for each candidate, [R, C].
        exact: per tree node, V_j where it is known without sampling, NaN elsewhere, [C].
        half: use only this half of the continuations (0 or 1); both by default.
        backup: replace rewards of passing continuations by the later node's value.
    """
    tree.link()
    results: list[CandidateValues | None] = [None] * len(tree.nodes)
    for index in sorted(range(len(tree.nodes)), key=lambda i: -tree.nodes[i].depth):
        results[index] = _estimate_node(
            tree, index, weights[index], exact[index], half, backup, results
        )
    return [result for result in results if result is not None]


def _estimate_node(
    tree: PrefixTree,
    index: int,
    weights_RC: Floats,
    exact_C: Floats,
    half: int | None,
    backup: bool,
    results: Sequence[CandidateValues | None],
) -> CandidateValues:
    node, counts = tree.nodes[index], tree.counts[index]
    counts.reserve(len(weights_RC))
    rounds = len(weights_RC)
    n_RC = _sum(counts.n, half)[:rounds]
    prefix = "leak_" if backup else ""
    total_RC = _sum(getattr(counts, prefix + "total"), half)[:rounds].copy()
    square_RC = _sum(getattr(counts, prefix + "square"), half)[:rounds].copy()
    below_C = np.zeros(len(exact_C))
    excess_RC = np.zeros_like(n_RC)
    used_RC = weights_RC > 0
    safe_RC = np.maximum(n_RC, 1.0)
    if backup:
        for slot, children in node.children.items():
            for child in children:
                value, var = node_value(tree.nodes[child], results[child])
                passed_R = _passed(tree.counts[child], half, rounds)
                total_RC[:, slot] += passed_R * value
                square_RC[:, slot] += passed_R * value**2
                share = (weights_RC[:, slot] * passed_R / safe_RC[:, slot]).sum()
                below_C[slot] += share**2 * var
                # The child's error moves its passing rewards together and so inflates their
                # sample variance; this is by how much in expectation.
                excess_RC[:, slot] += passed_R * (1 - passed_R / safe_RC[:, slot]) * var
    mean_RC = total_RC / safe_RC
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_RC = square_RC - n_RC * mean_RC**2 - excess_RC
        sample_RC = np.where(n_RC > 1, spread_RC / (n_RC - 1), np.nan)
    own_C = np.where(used_RC, weights_RC**2 * sample_RC / safe_RC, 0.0).sum(axis=0)
    weight_C = np.where(used_RC & (n_RC > 0), weights_RC, 0.0).sum(axis=0)
    value_C = np.where(used_RC, weights_RC * mean_RC, 0.0).sum(axis=0)
    # A candidate without all its rounds is not measured.
    value_C = np.where(weight_C > 1 - 1e-9, value_C, np.nan)
    var_C = np.where(np.isnan(value_C), np.nan, own_C + below_C)
    known_C = ~np.isnan(exact_C)
    return CandidateValues(
        value=np.where(known_C, exact_C, value_C),
        var=np.where(known_C, 0.0, var_C),
        innovation=np.where(known_C, 0.0, own_C),
    )


def node_value(node: TreeNode, values: CandidateValues | None) -> tuple[float, float]:
    """Value of a node and its variance, the student's choice limited to measured candidates."""
    if values is None:
        raise ValueError("a node's children must be estimated before it")
    prob_C = np.asarray(node.prob)
    prob_C = prob_C / prob_C.sum()
    return float(prob_C @ values.value), float(prob_C**2 @ values.var)


def _passed(counts: Counts, half: int | None, rounds: int) -> Floats:
    """How many continuations came from above in each round, and took a candidate here, [R]."""
    counts.reserve(rounds)
    return np.asarray(_sum(counts.n - counts.forced, half)[:rounds].sum(axis=-1))


def _sum(values_RHC: Floats, half: int | None) -> Floats:
    return values_RHC.sum(axis=1) if half is None else values_RHC[:, half]
