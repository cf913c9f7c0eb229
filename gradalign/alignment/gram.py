"""Alignment of mixtures m_1 + c m_2 in closed form, from inner products of two directions.

With d_i = <g*, m_i>, n_ij = <m_i, m_j> and A = |g*|^2, all summed over nodes, the pooled alignment
of the mixture is (d_1 + c d_2) / sqrt(A (n_11 + 2 c n_12 + c^2 n_22)). It is largest at
c = (d_2 n_11 - d_1 n_12) / (d_1 n_22 - d_2 n_12), where that is positive and a maximum; else at one
of the ends, the first or the second alone. A does not matter for where that is. Axes: _Y sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradalign.alignment.scores import pooled_of_sums

Floats = npt.NDArray[np.float64]

PAIR = 9
"""Sums of a pair: d_1, d_2, n_11, n_12, n_22, A, and the sizes of A, of n_11 and of n_22."""

GRID = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Coefficients at which a curve is drawn."""


def mixture_sums(sums: npt.ArrayLike, coefficient: npt.ArrayLike) -> Floats:
    """Return what `pooled_of_sums` takes of m_1 + c m_2, [..., PAIR] -> [..., POOLING].

    An infinite c stands for m_2 alone.

    Args:
        sums: of the pair, [..., PAIR].
        coefficient: c, which goes with the leading axes.
    """
    s = np.asarray(sums, dtype=np.float64)
    c = np.asarray(coefficient, dtype=np.float64)
    alone = np.isinf(c)
    a, c = np.where(alone, 0.0, 1.0), np.where(alone, 1.0, c)
    dot = a * s[..., 0] + c * s[..., 1]
    method = a * s[..., 2] + 2.0 * a * c * s[..., 3] + c**2 * s[..., 4]
    size = a * s[..., 7] + c**2 * s[..., 8]
    ideal, ideal_size = (np.broadcast_to(s[..., i], dot.shape) for i in (5, 6))
    return np.stack([dot, ideal, method, ideal_size, np.maximum(size, np.abs(method))], axis=-1)


def mixture_alignment(sums: npt.ArrayLike, coefficient: npt.ArrayLike) -> Floats:
    """Pooled alignment of m_1 + c m_2, [..., PAIR] -> [...]; NaN where it has none."""
    return pooled_of_sums(mixture_sums(sums, coefficient))


def best_coefficient(sums: npt.ArrayLike) -> Floats:
    """Return the c >= 0 of the largest alignment, [..., PAIR] -> [...]; inf for the second alone.

    NaN where neither direction has a length, or where the better of both ends is not known.
    """
    s = np.asarray(sums, dtype=np.float64)
    d1, d2, n11, n12, n22 = (s[..., i] for i in range(5))
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = (d2 * n11 - d1 * n12) / (d1 * n22 - d2 * n12)
    inner = np.where(np.isfinite(inner) & (inner > 0.0), inner, 0.0)
    choices = np.stack([np.zeros_like(inner), inner, np.full_like(inner, np.inf)], axis=-1)
    # The length of g* only scales: 1 stands for it where noise makes it negative.
    known = s.copy()
    known[..., 5], known[..., 6] = 1.0, 1.0
    value = mixture_alignment(known[..., None, :], choices)
    found = np.take_along_axis(
        choices, np.where(np.isnan(value), -np.inf, value).argmax(axis=-1)[..., None], axis=-1
    )[..., 0]
    return np.where(np.isnan(value).all(axis=-1), np.nan, found)


def crossed(sums: npt.ArrayLike) -> Floats:
    """Return the sums of a mixture whose coefficient the other half of the questions chose.

    Args:
        sums: of the pair over one half of the questions and over the other, [..., 2 PAIR].

    Returns:
        [..., POOLING]; NaN where a half has no best coefficient.
    """
    s = np.asarray(sums, dtype=np.float64)
    first, second = s[..., :PAIR], s[..., PAIR:]
    return chosen_sums(first, second) + chosen_sums(second, first)


def chosen_sums(sums: npt.ArrayLike, choosing: npt.ArrayLike) -> Floats:
    """Return the sums of the mixture that other sums like best, [..., PAIR] -> [..., POOLING].

    Its length is 1 where it was chosen: what was chosen in different places may be added up.

    Args:
        sums: of the pair where the mixture is judged.
        choosing: of the pair where its coefficient and its length are chosen.
    """
    c = best_coefficient(choosing)
    length2 = mixture_sums(choosing, c)[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(length2 > 0.0, 1.0 / np.sqrt(np.maximum(length2, 0.0)), np.nan)
    one = np.ones_like(scale)
    powers = np.stack([scale, one, scale**2, one, scale**2], axis=-1)
    return np.asarray(mixture_sums(sums, c) * powers)


def crossed_alignment(sums: npt.ArrayLike) -> Floats:
    """Pooled alignment of `crossed` sums, [..., 2 PAIR] -> [...]."""
    return pooled_of_sums(crossed(sums))


def share_of_second(sums: npt.ArrayLike) -> Floats:
    """Return c / (1 + c) of the best coefficient, [..., PAIR] -> [...]: 0 to 1, and finite."""
    c = best_coefficient(sums)
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(c), 1.0, c / (1.0 + c))
