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

Axes: _H halves, _R rounds, _C candidates of one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.branching.tree import PrefixTree, TreeNode

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateValues:
    """Value estimates at one tree node, each [C].

    Attributes:
        value: unbiased estimate of V_j; NaN where nothing was measured.
        var: unbiased estimate of the variance of `value`; it may be slightly negative under
            backing up, and is NaN where a round holds a single continuation.
    """

    value: Floats
    var: Floats


def estimate(
    tree: PrefixTree,
    weights: Sequence[Floats],
    exact: Sequence[Floats],
    *,
    halves: Sequence[int | None] = (None,),
    backup: bool = True,
) -> list[list[CandidateValues]]:
    """Estimate V_j at every tree node.

    Args:
        tree: the counts.
        weights: per tree node, each round's weight for each candidate, [R, C].
        exact: per tree node, V_j where it is known without sampling, NaN elsewhere, [C].
        halves: for each list to return, the half of the continuations to use (0 or 1), or None
            for both.
        backup: replace rewards of passing continuations by the later node's value.

    Returns:
        For each entry of `halves`, the values at every tree node.
    """
    tree.link()
    found: list[_Estimate | None] = [None] * len(tree.nodes)
    for index in sorted(range(len(tree.nodes)), key=lambda i: -tree.nodes[i].depth):
        found[index] = _estimate_node(
            tree, index, weights[index], exact[index], halves, backup, found
        )
    return [
        [CandidateValues(item.value_HC[h], item.var_HC[h]) for item in found if item is not None]
        for h in range(len(halves))
    ]


@dataclass(frozen=True, eq=False)
class _Estimate:
    """One node's values for every entry of `halves`, and the value and variance of the node."""

    value_HC: Floats
    var_HC: Floats
    node_value_H: Floats
    node_var_H: Floats


def _estimate_node(
    tree: PrefixTree,
    index: int,
    weights_RC: Floats,
    exact_C: Floats,
    halves: Sequence[int | None],
    backup: bool,
    found: Sequence[_Estimate | None],
) -> _Estimate:
    node, counts = tree.nodes[index], tree.counts[index]
    rounds = len(weights_RC)
    n_HRC = _pick(counts.n, halves, rounds)
    total_HRC = _pick(counts.leak_total if backup else counts.total, halves, rounds)
    square_HRC = _pick(counts.leak_square if backup else counts.square, halves, rounds)
    below_HC = np.zeros((len(halves), len(exact_C)))
    excess_HRC = np.zeros_like(n_HRC)
    used_RC = weights_RC > 0
    safe_HRC = np.maximum(n_HRC, 1.0)
    if backup:
        for slot, children in node.children.items():
            for child in children:
                under = found[child]
                assert under is not None  # deeper nodes come first
                value_H1, var_H1 = under.node_value_H[:, None], under.node_var_H[:, None]
                come = tree.counts[child]
                passed_HR = _pick(come.n - come.forced, halves, rounds).sum(axis=-1)
                total_HRC[..., slot] += passed_HR * value_H1
                square_HRC[..., slot] += passed_HR * value_H1**2
                share_HR = passed_HR / safe_HRC[..., slot]
                below_HC[:, slot] += (weights_RC[:, slot] * share_HR).sum(axis=1) ** 2 * var_H1[
                    :, 0
                ]
                # The child's error moves its passing rewards together and so inflates their
                # sample variance; this is by how much in expectation.
                excess_HRC[..., slot] += passed_HR * (1 - share_HR) * var_H1
            # A later node with a candidate that could not be measured has no value to take
            # over: then the rewards themselves count, which says as much with more noise.
            lost_H = np.array(
                [_is_lost(half, [found[c] for c in children], h) for h, half in enumerate(halves)]
            )
            if lost_H.any():
                for sums_HRC, plain in ((total_HRC, counts.total), (square_HRC, counts.square)):
                    plain_HRC = _pick(plain, halves, rounds)
                    sums_HRC[lost_H, :, slot] = plain_HRC[lost_H, :, slot]
                excess_HRC[lost_H, :, slot] = 0.0
                below_HC[lost_H, slot] = 0.0
    mean_HRC = total_HRC / safe_HRC
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_HRC = square_HRC - n_HRC * mean_HRC**2 - excess_HRC
        sample_HRC = np.where(n_HRC > 1, spread_HRC / (n_HRC - 1), np.nan)
    own_HC = np.where(used_RC, weights_RC**2 * sample_HRC / safe_HRC, 0.0).sum(axis=1)
    weight_HC = np.where(used_RC & (n_HRC > 0), weights_RC, 0.0).sum(axis=1)
    value_HC = np.where(used_RC, weights_RC * mean_HRC, 0.0).sum(axis=1)
    # A candidate without all its rounds is not measured.
    value_HC = np.where(weight_HC > 1 - 1e-9, value_HC, np.nan)
    var_HC = np.where(np.isnan(value_HC), np.nan, own_HC + below_HC)
    known_C = ~np.isnan(exact_C)
    value_HC = np.where(known_C, exact_C, value_HC)
    var_HC = np.where(known_C, 0.0, var_HC)
    node_value_H, node_var_H = node_value(node, value_HC, var_HC)
    return _Estimate(value_HC, var_HC, node_value_H, node_var_H)


def _is_lost(half: int | None, children: Sequence[_Estimate | None], h: int) -> bool:
    """Whether a later node's value is not known; its variance matters for both halves only."""
    return any(
        under is not None
        and not (
            np.isfinite(under.node_value_H[h])
            and (half is not None or np.isfinite(under.node_var_H[h]))
        )
        for under in children
    )


def node_value(node: TreeNode, value: Floats, var: Floats) -> tuple[Floats, Floats]:
    """Value of a node and its variance, from those of its candidates, [..., C]."""
    prob_C = np.asarray(node.prob)
    prob_C = prob_C / prob_C.sum()
    return np.asarray(value @ prob_C), np.asarray(var @ prob_C**2)


def _pick(values_RHC: Floats, halves: Sequence[int | None], rounds: int) -> Floats:
    """Return the counts of each half that is asked for, None for both, in so many rounds."""
    missing = rounds - len(values_RHC)
    if missing > 0:
        values_RHC = np.pad(values_RHC, ((0, missing), (0, 0), (0, 0)))
    values_RHC = values_RHC[:rounds]
    parts = [values_RHC.sum(axis=1) if half is None else values_RHC[:, half] for half in halves]
    return np.stack(parts)
