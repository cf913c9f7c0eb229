"""Which positions of a spine become nodes, with exact inclusion probabilities.

Every sampler draws a fixed number of positions and returns the probability with which each of
them had to be drawn, so that weighting by its inverse (Horvitz-Thompson) makes any sum over
nodes an unbiased estimate of the sum over all positions.

Axes: _T positions of one spine (or of all spines of a question, concatenated).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from gradalign.errors import UnknownNameError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NodeSampler = Literal["all", "uniform", "entropy", "stratified"]

# A position whose student is certain has entropy 0 and could never be drawn; a share of every
# position's size that does not depend on entropy keeps all inclusion probabilities positive.
UNIFORM_SHARE = 0.05


def choose_nodes(
    entropy_T: npt.ArrayLike,
    num_nodes: int,
    sampler: NodeSampler,
    rng: np.random.Generator,
) -> tuple[Ints, Floats]:
    """Draw positions to branch at.

    Args:
        entropy_T: the student's entropy at every position (nats), [T].
        num_nodes: how many positions; all of them if there are not more.
        sampler: `all`; `uniform`; `entropy` (probability proportional to entropy, with 5 %
            of the mass spread evenly); `stratified` (one uniform draw in each of `num_nodes`
            equally long stretches of the spine).
        rng: source of the random start.

    Returns:
        The chosen positions in increasing order, and the inclusion probability of each.

    Raises:
        UnknownNameError: no such sampler.
        ValueError: entropies that are negative or not finite, or num_nodes < 1.
    """
    if sampler not in get_args(NodeSampler):
        raise UnknownNameError(
            f"unknown node sampler {sampler!r}.", f"Known: {', '.join(get_args(NodeSampler))}."
        )
    size_T = np.asarray(entropy_T, dtype=np.float64)
    if size_T.ndim != 1 or not np.all(np.isfinite(size_T)) or np.any(size_T < 0):
        raise ValueError(f"entropy must be finite and non-negative, [T]; got shape {size_T.shape}")
    if num_nodes < 1:
        raise ValueError(f"num_nodes must be at least 1, got {num_nodes}")
    length = len(size_T)
    if sampler == "all" or length <= num_nodes:
        return np.arange(length, dtype=np.int64), np.ones(length)
    if sampler == "stratified":
        # A stretch may end inside a position; systematic sampling of equal sizes along the
        # spine is exactly one draw per stretch, with equal probabilities.
        probs_T = np.full(length, num_nodes / length)
        chosen = systematic_sample(probs_T, rng)
    elif sampler == "uniform":
        probs_T = np.full(length, num_nodes / length)
        chosen = np.sort(rng.choice(length, size=num_nodes, replace=False)).astype(np.int64)
    else:
        floor = size_T.mean() * UNIFORM_SHARE if size_T.any() else 1.0
        probs_T = inclusion_probabilities(size_T * (1.0 - UNIFORM_SHARE) + floor, num_nodes)
        order = rng.permutation(length)
        chosen = np.sort(order[systematic_sample(probs_T[order], rng)])
    return chosen, probs_T[chosen]


def inclusion_probabilities(size_T: npt.ArrayLike, num_nodes: float) -> Floats:
    """min(1, c size) with c such that the sum is `num_nodes`, [T].

    Raises:
        ValueError: a size that is not positive and finite.
    """
    sizes_T = np.asarray(size_T, dtype=np.float64)
    if not np.all(np.isfinite(sizes_T)) or np.any(sizes_T <= 0):
        raise ValueError("sizes must be positive and finite")
    if num_nodes >= len(sizes_T):
        return np.ones(len(sizes_T))
    certain_T = np.zeros(len(sizes_T), dtype=np.bool_)
    while True:
        free_T = ~certain_T
        scale = (num_nodes - certain_T.sum()) / sizes_T[free_T].sum()
        probs_T = np.where(certain_T, 1.0, sizes_T * scale)
        over_T = free_T & (probs_T >= 1.0)
        if not over_T.any():
            return probs_T
        certain_T |= over_T


def systematic_sample(probs_T: npt.ArrayLike, rng: np.random.Generator) -> Ints:
    """Draw each index with exactly its probability, in one pass with a random start.

    The number of indices drawn is the sum of the probabilities (rounded up or down where that
    is not a whole number). Madow's systematic sampling; joint inclusion probabilities depend
    on the order, so permute first where order carries meaning.
    """
    edges = np.concatenate(([0.0], np.cumsum(np.asarray(probs_T, dtype=np.float64))))
    total = edges[-1]
    if abs(total - round(total)) < 1e-9 * max(1.0, total):
        edges *= round(total) / total if total > 0 else 1.0
    start = rng.random()
    # Index i is drawn if one of start, start + 1, ... lies in [edges[i], edges[i + 1]).
    crossings = np.ceil(edges - start)
    return np.flatnonzero(np.diff(crossings) > 0).astype(np.int64)
