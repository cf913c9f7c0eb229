"""Alignment at a node and over nodes.

Cosines per node follow "Unmasking On-Policy Distillation: Where It Helps, Where It Hurts, and
Why" (arXiv 2605.10889). A cosine of noisy gradients is attenuated; the pooled alignment is built
from sums that noise does not bias. Axes: _N nodes, _C candidates; directions are restricted to
the candidates and 0 at padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.alignment.ideal import ideal_gradient, unbiased_norm2
from gradalign.rounding import RESIDUE, is_residue

Floats = npt.NDArray[np.float64]

FLAT = "flat"
ZERO_METHOD = "zero_method"
# Norms below this share of the largest possible one (|g| <= 1/2, reached at P = 1/2) are
# round-off of an exact zero.
ZERO_NORM = 1e-12

POOLING = 5
"""Columns that pooling sums: dot, |g*|^2, |m|^2, and the absolute values of the two norms."""


@dataclass(frozen=True, eq=False)
class Cosines:
    """Per-node cosines.

    Attributes:
        value_N: the cosine, NaN where it is undefined.
        reason_N: why it is undefined, "" where it is not: `flat` (all V_j equal: the ideal
            gradient is 0) or `zero_method` (the method's direction is 0), [N] of str.
    """

    value_N: Floats
    reason_N: npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class NodeSums:
    """What pooling needs from each node, [N].

    Attributes:
        dot_N: unbiased ideal . method.
        ideal_norm2_N: unbiased |g*|^2; negative values are noise and must be kept.
        method_norm2_N: |m|^2 (unbiased where the method is itself measured).
    """

    dot_N: Floats
    ideal_norm2_N: Floats
    method_norm2_N: Floats


def cosine(g: npt.ArrayLike, m: npt.ArrayLike) -> Cosines:
    """Cosine of ideal gradient and method at each node.

    Args:
        g: ideal gradients [N, C], 0 at padding.
        m: the method's directions on the same candidates [N, C], 0 at padding.

    Raises:
        ValueError: shapes differ.
    """
    g_NC, m_NC = _pair(g, m)
    norm_g_N, norm_m_N = np.linalg.norm(g_NC, axis=-1), np.linalg.norm(m_NC, axis=-1)
    flat_N = norm_g_N <= ZERO_NORM
    zero_N = norm_m_N <= ZERO_NORM
    with np.errstate(invalid="ignore", divide="ignore"):
        value_N = (g_NC * m_NC).sum(axis=-1) / (norm_g_N * norm_m_N)
    reason_N = np.where(flat_N, FLAT, np.where(zero_N, ZERO_METHOD, ""))
    value_N = np.where(reason_N == "", np.clip(value_N, -1.0, 1.0), np.nan)
    return Cosines(value_N, reason_N)


def node_sums(
    p: npt.ArrayLike,
    v: npt.ArrayLike,
    var_of_mean: npt.ArrayLike,
    m: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> NodeSums:
    """Unbiased products at each node, for a method that does not use the same continuations.

    Args:
        p: student probabilities of the candidates, [N, C].
        v: value estimates, [N, C].
        var_of_mean: their variances, [N, C].
        m: the method's directions on the candidates, [N, C].
        mask: True where a candidate was measured, [N, C].
    """
    g_NC, m_NC = _pair(ideal_gradient(p, v, mask), m)
    return NodeSums(
        dot_N=(g_NC * m_NC).sum(axis=-1),
        ideal_norm2_N=unbiased_norm2(p, v, var_of_mean, mask),
        method_norm2_N=(m_NC**2).sum(axis=-1),
    )


def cross_fit(
    p: npt.ArrayLike,
    half_v: npt.ArrayLike,
    half_m: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> NodeSums:
    """Unbiased products at each node, for a method that is estimated from continuations.

    The direction from one half is scored against the ideal gradient from the other, both ways
    round, and averaged; |m|^2 and |g*|^2 are products of the two halves. Without it both
    would share noise, and the alignment would be too high.

    Args:
        p: student probabilities of the candidates, [N, C].
        half_v: value estimates from each half, [2, N, C].
        half_m: directions from each half, [2, N, C].
        mask: True where a candidate was measured in both halves, [N, C].

    Raises:
        ValueError: shapes differ, or there are not two halves.
    """
    v_HNC, m_HNC = np.asarray(half_v, dtype=np.float64), np.asarray(half_m, dtype=np.float64)
    if v_HNC.shape != m_HNC.shape or v_HNC.shape[:1] != (2,):
        raise ValueError(f"halves must be [2, N, C], got {v_HNC.shape} and {m_HNC.shape}")
    first, second = (ideal_gradient(p, v_NC, mask) for v_NC in v_HNC)
    return NodeSums(
        dot_N=0.5 * ((first * m_HNC[1]).sum(axis=-1) + (second * m_HNC[0]).sum(axis=-1)),
        ideal_norm2_N=_product(first, second),
        method_norm2_N=_product(m_HNC[0], m_HNC[1]),
    )


def _product(first_NC: Floats, second_NC: Floats) -> Floats:
    """Inner product of two halves; exactly 0 where only rounding is left of it."""
    terms_NC = first_NC * second_NC
    found_N = terms_NC.sum(axis=-1)
    return np.where(is_residue(found_N, np.abs(terms_NC).sum(axis=-1)), 0.0, found_N)


def pooling_columns(
    dot: npt.ArrayLike,
    ideal_norm2: npt.ArrayLike,
    method_norm2: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
) -> Floats:
    """Weighted columns whose sums `pooled_of_sums` takes, [N, POOLING].

    The last two are absolute values: a sum of norms is rounding, not signal, if it is a residue of
    these.

    Args:
        dot: unbiased inner products, [N].
        ideal_norm2: unbiased squared norms of the ideal gradient, [N].
        method_norm2: squared norms of the method, [N].
        weight: 1 / inclusion probability, [N]; 1 by default.
    """
    columns = [np.asarray(values, dtype=np.float64) for values in (dot, ideal_norm2, method_norm2)]
    weight_N = np.ones_like(columns[0]) if weight is None else np.asarray(weight, dtype=np.float64)
    weighted = [weight_N * values for values in columns]
    return np.stack([*weighted, np.abs(weighted[1]), np.abs(weighted[2])], axis=-1)


def pooled(
    dot: npt.ArrayLike,
    ideal_norm2: npt.ArrayLike,
    method_norm2: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
) -> float:
    """Pooled alignment: the cosine of all nodes taken as one long vector.

    sum w dot / sqrt(sum w ideal_norm2 * sum w method_norm2). Noise biases none of the three sums,
    so a few continuations per node are enough where there are many nodes.

    Args:
        dot: unbiased inner products, [N].
        ideal_norm2: unbiased squared norms of the ideal gradient, [N].
        method_norm2: squared norms of the method, [N].
        weight: 1 / inclusion probability, [N]; 1 by default.

    Returns:
        The alignment, NaN where there is none; see `pooled_of_sums`. Noise can carry it past 1.
    """
    columns_NY = pooling_columns(dot, ideal_norm2, method_norm2, weight)
    return float(pooled_of_sums(columns_NY.sum(axis=0)))


def pooled_of_sums(sums: npt.ArrayLike) -> Floats:
    """Pooled alignment from weighted sums of `pooling_columns`, [..., POOLING] -> [...].

    It is NaN if either sum of norms is not positive, or positive by rounding alone: within
    `RESIDUE` of its terms, or of what the dot says that they must have been (dot^2 is at most
    |ghat|^2 |m|^2). A value that is 0 but for rounding is 0.

    Args:
        sums: of dot, ideal_norm2, method_norm2, and of the absolute values of the latter two;
            the first three alone, [..., 3], where these are not known.
    """
    sums_Y = np.asarray(sums, dtype=np.float64)
    dot, ideal, method = sums_Y[..., 0], sums_Y[..., 1], sums_Y[..., 2]
    there = (ideal > 0) & (method > 0)
    if sums_Y.shape[-1] == POOLING:
        there &= ~is_residue(ideal, sums_Y[..., 3]) & ~is_residue(method, sums_Y[..., 4])
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = dot / np.sqrt(np.maximum(ideal, 0.0) * np.maximum(method, 0.0))
        there &= RESIDUE * value**2 <= 1.0
    value = np.where(np.abs(value) <= ZERO_NORM, 0.0, value)
    return np.where(there, value, np.nan)


def pooled_limit(sums: npt.ArrayLike) -> Floats:
    """`pooled_of_sums`, and where noise exceeds |g*|^2 what it tends to as |g*|^2 falls to 0.

    The length of the ideal gradient is never negative: sums that say so are those of a small one,
    for which the alignment lies far out on the side of the dot. Resamples are counted there. NaN
    is left where the side is not known: no dot, or no direction.
    """
    sums_Y = np.asarray(sums, dtype=np.float64)
    value, dot = pooled_of_sums(sums_Y), sums_Y[..., 0]
    method = sums_Y[..., 2] > 0
    if sums_Y.shape[-1] == POOLING:
        method &= ~is_residue(sums_Y[..., 2], sums_Y[..., 4])
    far = np.isnan(value) & method & (dot != 0)
    return np.where(far, np.copysign(np.inf, dot), value)


def why_unpooled(sums: npt.ArrayLike) -> str:
    """Say why sums have no pooled alignment, as a clause; "" where they have one.

    Args:
        sums: as `pooled_of_sums` takes them, [POOLING] or [3].
    """
    sums_Y = np.asarray(sums, dtype=np.float64)
    if np.isfinite(pooled_of_sums(sums_Y)):
        return ""
    sized = len(sums_Y) == POOLING
    if sized and not sums_Y[3] > 0 and not sums_Y[0] and sums_Y[4] > 0:
        return ALL_FLAT
    if not sums_Y[2] > 0 and (not sized or not sums_Y[4] > 0):
        return NO_DIRECTION
    if not sums_Y[2] > 0 or (sized and is_residue(sums_Y[2], sums_Y[4])):
        return METHOD_IS_NOISE
    return IDEAL_IS_NOISE


IDEAL_IS_NOISE = "the ideal gradient is not above its noise"
METHOD_IS_NOISE = "the method's direction is not above its noise"
NO_DIRECTION = "the method has no direction at any position"
ALL_FLAT = "every position is flat"


def balanced(
    dot: npt.ArrayLike,
    ideal_norm2: npt.ArrayLike,
    method_norm2: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
) -> float:
    """Noise-corrected mean: pooled alignment with every node's method direction of length 1.

    Like the mean of cosines it ignores how far a method would go at a node, and like the pooled
    alignment it is built from sums that noise does not bias: it estimates
    sum w |g*| cos / sqrt(sum w |g*|^2 sum w), whatever the number of continuations. Nodes without
    a choice to make, whose |g*| is 0, keep their weight in the last sum unless they are left out.

    Not for methods that are measured from continuations, whose length is not known.

    Args:
        dot: unbiased inner products, [N].
        ideal_norm2: unbiased squared norms of the ideal gradient, [N].
        method_norm2: squared norms of the method, [N]; nodes where it is 0 are left out.
        weight: 1 / inclusion probability, [N]; 1 by default.
    """
    dot_N, ideal_N, method_N = (
        np.asarray(values, dtype=np.float64) for values in (dot, ideal_norm2, method_norm2)
    )
    weight_N = np.ones_like(dot_N) if weight is None else np.asarray(weight, dtype=np.float64)
    there_N = method_N > ZERO_NORM**2
    length_N = np.sqrt(np.where(there_N, method_N, 1.0))
    return pooled(dot_N / length_N, ideal_N, there_N.astype(np.float64), weight_N * there_N)


def mean_alignment(cosines: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """Weighted mean of per-node cosines over the nodes that have one (arXiv 2605.10889).

    It estimates the mean of the ATTENUATED cosines that this many continuations give, over the
    nodes that do not look flat at this many: its value depends on the budget.
    """
    value_N = np.asarray(cosines, dtype=np.float64)
    weight_N = np.ones_like(value_N) if weight is None else np.asarray(weight, dtype=np.float64)
    there_N = np.isfinite(value_N)
    return float(
        mean_of_sums(np.stack([(weight_N * value_N)[there_N].sum(), weight_N[there_N].sum()]))
    )


def mean_of_sums(sums: npt.ArrayLike) -> Floats:
    """Mean from weighted sums (values, weights), [..., 2] -> [...]; NaN without any weight."""
    sums_Y = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums_Y[..., 1] > 0, sums_Y[..., 0] / sums_Y[..., 1], np.nan)


def _pair(g: npt.ArrayLike, m: npt.ArrayLike) -> tuple[Floats, Floats]:
    g_NC, m_NC = np.asarray(g, dtype=np.float64), np.asarray(m, dtype=np.float64)
    if g_NC.shape != m_NC.shape:
        raise ValueError(f"ideal and method must have one shape, got {g_NC.shape} and {m_NC.shape}")
    return g_NC, m_NC
