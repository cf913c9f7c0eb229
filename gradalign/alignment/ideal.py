"""The ideal gradient at a node, what sampling noise does to it, and what each candidate costs.

At a node the student chooses token j with probability P_j, and then succeeds with probability
V_j. The gradient of that success in the logits is g_j = P_j (V_j - sum_k P_k V_k), after
"Unmasking On-Policy Distillation: Where It Helps, Where It Hurts, and Why" (arXiv 2605.10889).
Here P is renormalised on the candidates whose V_j was measured.

All functions take arrays [..., C]; `mask` is True where a candidate was measured. A masked-out
candidate has probability and gradient 0, and its value may be NaN. Axes: _N nodes, _C candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradalign.rounding import EPS, RESIDUE

Floats = npt.NDArray[np.float64]


def renormalise(p: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """Student probabilities conditioned on the candidates, [..., C].

    A row without any mass (nothing measured) stays all zero.

    Raises:
        ValueError: `mask` has another shape, or a probability is negative or not finite.
    """
    p_NC = np.asarray(p, dtype=np.float64)
    if mask is not None:
        mask_NC = np.asarray(mask, dtype=np.bool_)
        if mask_NC.shape != p_NC.shape:
            raise ValueError(f"mask must have the shape of p, {p_NC.shape}, got {mask_NC.shape}")
        p_NC = np.where(mask_NC, p_NC, 0.0)
    if not np.all(np.isfinite(p_NC)) or np.any(p_NC < 0):
        raise ValueError("p must hold finite, non-negative probabilities where mask is True")
    total_N = p_NC.sum(axis=-1, keepdims=True)
    return np.asarray(p_NC / np.where(total_N > 0, total_N, 1.0))


def ideal_gradient(p: npt.ArrayLike, v: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """g_j = p_j (v_j - sum_k p_k v_k) with p renormalised on the candidates, [..., C].

    Values that are equal up to rounding give exactly 0.

    Args:
        p: student probabilities of the candidates; need not sum to 1.
        v: success probability after each candidate, in [0, 1] (an unbiased estimate may leave it).
        mask: True where the candidate was measured; all of them by default.

    Raises:
        ValueError: shapes differ.
    """
    tilde_NC = renormalise(p, mask)
    v_NC = _masked(v, mask, tilde_NC.shape, "v")
    mean_N = (tilde_NC * v_NC).sum(axis=-1, keepdims=True)
    gap_NC = v_NC - mean_N
    gap_NC[np.abs(gap_NC) <= _value_error(v_NC)] = 0.0
    return np.asarray(tilde_NC * gap_NC)


def gradient_map(p: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """The matrix A = D (I - 1 p^T) with g = A v, [..., C, C]."""
    tilde_NC = renormalise(p, mask)
    identity = np.eye(tilde_NC.shape[-1])
    return np.asarray(tilde_NC[..., :, None] * (identity - tilde_NC[..., None, :]))


def covariance(
    p: npt.ArrayLike, var_of_mean: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Cov(ghat) = A diag(var_of_mean) A^T for independent value estimates, [..., C, C].

    Args:
        p: student probabilities of the candidates.
        var_of_mean: (unbiased estimate of) the variance of each value estimate, [..., C].
        mask: True where the candidate was measured.
    """
    map_NCC = gradient_map(p, mask)
    var_NC = _masked(var_of_mean, mask, map_NCC.shape[:-1], "var_of_mean")
    return np.asarray((map_NCC * var_NC[..., None, :]) @ np.swapaxes(map_NCC, -1, -2))


def influence(p: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """a_j^2 = p_j^2 ((1 - p_j)^2 + sum_{i != j} p_i^2), [..., C].

    The squared length of column j of A: how much a unit of variance in V_j adds to tr Cov(ghat).
    """
    tilde_NC = renormalise(p, mask)
    square_NC = tilde_NC**2
    others_NC = square_NC.sum(axis=-1, keepdims=True) - square_NC
    return np.asarray(square_NC * ((1.0 - tilde_NC) ** 2 + others_NC))


def noise_trace(
    p: npt.ArrayLike, var_of_mean: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """Tr Cov(ghat) = sum_j a_j^2 var_of_mean_j, [...]."""
    influence_NC = influence(p, mask)
    var_NC = _masked(var_of_mean, mask, influence_NC.shape, "var_of_mean")
    return np.asarray((influence_NC * var_NC).sum(axis=-1))


def unbiased_norm2(
    p: npt.ArrayLike,
    v: npt.ArrayLike,
    var_of_mean: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
) -> Floats:
    """|ghat|^2 - tr Cov(ghat), [...]; unbiased for |g*|^2, and therefore sometimes negative.

    With few rollouts the two are often equal (V of two continuations that ended differently, say):
    a difference within their rounding is exactly 0.
    """
    tilde_NC = renormalise(p, mask)
    gradient_NC = ideal_gradient(p, v, mask)
    own_N, noise_N = (gradient_NC**2).sum(axis=-1), noise_trace(p, var_of_mean, mask)
    # What rounding does to either: relative to itself, and where a probability is near 1 to the
    # larger numbers that it is a difference of.
    v_NC = _masked(v, mask, tilde_NC.shape, "v")
    var_NC = _masked(var_of_mean, mask, tilde_NC.shape, "var_of_mean")
    square_NC = tilde_NC**2
    length_N = np.sqrt(square_NC.sum(axis=-1))
    moved_N = _value_error(v_NC)[..., 0] * length_N
    spread_N = (square_NC * np.abs(var_NC)).sum(axis=-1) * length_N**2
    error_N = RESIDUE * (own_N + np.abs(noise_N)) + 16 * EPS * spread_N
    error_N += 2 * np.sqrt(own_N) * moved_N + moved_N**2
    found_N = own_N - noise_N
    return np.asarray(np.where(np.abs(found_N) <= error_N, 0.0, found_N))


def teacher_advantage(
    p: npt.ArrayLike, q: npt.ArrayLike, v: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> Floats:
    """sum_j (q_j - p_j) v_j, [...]: what letting the teacher choose this one token would gain.

    Both distributions are renormalised on the candidates (arXiv 2605.10889).
    """
    p_NC, q_NC = renormalise(p, mask), renormalise(q, mask)
    v_NC = _masked(v, mask, p_NC.shape, "v")
    return np.asarray(((q_NC - p_NC) * v_NC).sum(axis=-1))


def _value_error(v_NC: Floats) -> Floats:
    """What rounding may do to v_j less the mean of all v, [..., 1]."""
    return np.asarray(16 * EPS * np.abs(v_NC).max(axis=-1, keepdims=True, initial=0.0))


def _masked(
    values: npt.ArrayLike, mask: npt.ArrayLike | None, shape: tuple[int, ...], name: str
) -> Floats:
    """Return `values` with 0 in place of what the mask leaves out."""
    values_NC = np.asarray(values, dtype=np.float64)
    if values_NC.shape != shape:
        raise ValueError(f"{name} must have the shape of p, {shape}, got {values_NC.shape}")
    if mask is None:
        return values_NC
    return np.where(np.asarray(mask, dtype=np.bool_), values_NC, 0.0)
