"""Where another continuation lowers the noise of the ideal gradient most.

The noise of a question's ideal gradients is sum_b c_b^2 s_b^2 / n_b over its branches b (a
candidate at a node): n_b continuations of variance s_b^2, and c_b^2 says how much a branch's
error matters, at its own node (a_j^2 of `gradalign.alignment.ideal.influence`) and, through
backing up, at all nodes above. Least noise for a given number of tokens has n_b proportional to
c_b s_b / sqrt(tokens per continuation): Neyman's allocation.

c_b and the tokens follow from probabilities alone. s_b has to be learnt from rewards, which is
why rounds are weighted as they are (see `gradalign.branching.values`). On the bundled pair most
of the gain comes from c_b; what rewards add to it is small.

Axes: _O branches of a question (all candidates of all tree nodes, one node after the other).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradalign.branching.tree import PrefixTree
from gradalign.branching.values import CandidateValues, node_value

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Standard deviation of a reward before any was seen: the mean of sqrt(V (1 - V)) over the
# arcsine prior Beta(1/2, 1/2) is 1/pi. Where most continuations go on through a later node and
# take its value, only those that leave contribute; a quarter of that variance is assumed.
PRIOR_SPREAD = 1.0 / np.pi
PRIOR_SPREAD_PASSING = PRIOR_SPREAD / 2
# Share of continuations that are assumed to reach the next node before any was seen.
PRIOR_REACH = 0.9
# How many pseudo-observations the other candidates of a node are worth at most.
SIBLING_STRENGTH = 1.0


def branch_offsets(tree: PrefixTree) -> npt.NDArray[np.int64]:
    """Where each tree node's branches begin, and at the end how many there are."""
    return np.cumsum([0, *(len(node.token_ids) for node in tree.nodes)], dtype=np.int64)


def total_influence(tree: PrefixTree, own_O: Floats, reach_N: Floats, *, backup: bool) -> Floats:
    """c_b^2: how much a branch's variance adds to the noise of all ideal gradients, [B].

    Args:
        tree: the nodes.
        own_O: what it adds at its own node.
        reach_N: share of the continuations of a node's parent branch that come through it.
        backup: whether values are backed up; if not, only the own node counts.
    """
    influence_O = own_O.copy()
    if not backup:
        return influence_O
    offset = branch_offsets(tree)
    for index in sorted(range(len(tree.nodes)), key=lambda i: tree.nodes[i].depth):
        node = tree.nodes[index]
        if node.parent_slot < 0:
            continue
        prob_C = np.asarray(node.prob) / sum(node.prob)
        above = influence_O[offset[node.parent] + node.parent_slot]
        influence_O[offset[index] : offset[index + 1]] += reach_N[index] ** 2 * prob_C**2 * above
    return influence_O


def prior_spread(tree: PrefixTree, *, backup: bool) -> Floats:
    """s_b before any reward was seen, [B]."""
    spreads: list[float] = []
    for node in tree.nodes:
        spreads += [
            PRIOR_SPREAD_PASSING if backup and slot in node.children else PRIOR_SPREAD
            for slot in range(len(node.token_ids))
        ]
    return np.asarray(spreads, dtype=np.float64)


def observed_reach(tree: PrefixTree) -> Floats:
    """Share of each node's parent branch that has come through it so far, [N]."""
    reach_N = np.full(len(tree.nodes), PRIOR_REACH)
    for index, node in enumerate(tree.nodes):
        if node.parent_slot >= 0:
            counts = tree.counts[index]
            entered = float((counts.n - counts.forced).sum())
            above = float(tree.counts[node.parent].n[..., node.parent_slot].sum())
            reach_N[index] = min(1.0, entered / above) if above > 0 else PRIOR_REACH
    return reach_N


def posterior_spread(
    tree: PrefixTree, values: Sequence[CandidateValues], *, backup: bool
) -> Floats:
    """s_b given the rewards so far, [B].

    A branch's success probability has a Beta posterior: 1/2 and 1/2, so that two equal rewards do
    not read as certainty, plus the counts, plus up to one pseudo-observation with the mean
    of the node's other candidates. s_b^2 is the posterior mean of V (1 - V). Where
    continuations go on through a later node only those that leave count as draws, and how
    often they do so, times how much it changes the value, comes on top.
    """
    spreads: list[float] = []
    for index, node in enumerate(tree.nodes):
        counts = tree.counts[index]
        n_C, total_C = counts.n.sum(axis=(0, 1)), counts.total.sum(axis=(0, 1))
        leak_C, leaked_C = counts.leak_n.sum(axis=(0, 1)), counts.leak_total.sum(axis=(0, 1))
        for slot in range(len(node.token_ids)):
            others, success = n_C.sum() - n_C[slot], total_C.sum() - total_C[slot]
            centre = (success + 0.5) / (others + 1.0)
            strength = SIBLING_STRENGTH * min(1.0, others / 2.0)
            below = [
                float(node_value(tree.nodes[c], values[c].value, values[c].var)[0])
                for c in (node.children.get(slot, ()) if backup else ())
            ]
            passing = bool(below) and bool(np.isfinite(below).all())
            n, total = (leak_C[slot], leaked_C[slot]) if passing else (n_C[slot], total_C[slot])
            a = 0.5 + total + strength * centre
            b = 0.5 + n - total + strength * (1.0 - centre)
            variance = a * b / ((a + b) * (a + b + 1.0))
            if passing:
                leave = (n + 0.25) / (n_C[slot] + 0.5)
                # 0.01: the mean of those that leave is itself not known.
                jump = (a / (a + b) - float(np.mean(below))) ** 2 + 0.01
                variance = leave * variance + leave * (1.0 - leave) * jump
            spreads.append(float(np.sqrt(variance)))
    return np.asarray(spreads, dtype=np.float64)


def fill(score_O: Floats, floor_O: Floats, total: float) -> tuple[Floats, float]:
    """Share `total` in proportion to the scores, but nobody less than its floor.

    Returns:
        The shares [B], and the factor by which a score above its floor was multiplied.
    """
    share_O = floor_O.astype(np.float64)
    free_O = score_O > 0
    scale = 0.0
    while free_O.any():
        scale = max(total - share_O[~free_O].sum(), 0.0) / score_O[free_O].sum()
        low_O = free_O & (score_O * scale < floor_O)
        if not low_O.any():
            share_O[free_O] = score_O[free_O] * scale
            break
        free_O &= ~low_O
    return share_O, float(scale)


def whole(share_O: Floats) -> npt.NDArray[np.int64]:
    """Round shares to whole numbers whose sum is the rounded sum, by largest remainders."""
    down_O = np.floor(share_O).astype(np.int64)
    missing = round(float(share_O.sum())) - int(down_O.sum())
    # Ties go to the earlier branch, so that the same question is always allocated alike.
    order = np.argsort(-(share_O - down_O), kind="stable")
    down_O[order[: max(missing, 0)]] += 1
    return down_O
