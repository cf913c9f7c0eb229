"""Token level against sequence level, and how far a teacher's word is worth.

Source: "Revisiting On-Policy Distillation" (arXiv 2603.25562). Token-level distillation
(gamma = 0) looks at the next token's log ratio only; the gradient of the reverse KL between whole
responses (gamma = 1) adds the log ratios of everything that follows, at a variance that grows with
the length. Axes: _H halves of the continuations, _N nodes, _C candidates, _T tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradalign.rounding import is_residue

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

GAMMAS = (0.0, 0.5, 0.9, 1.0)


def spec(gamma: float) -> str:
    """Return the method: the sampled-token estimator of the discounted reverse KL."""
    return f"minillm:gamma={gamma:g},single_step=false"


def bias2(direction_HNC: npt.ArrayLike, sequence_HNC: npt.ArrayLike) -> Floats:
    """Unbiased |m - m_1|^2, m_1 the sequence-level direction, [N]; may be negative by noise.

    It is the product of the differences in the two halves of the continuations, whose noise is
    independent.

    Args:
        direction_HNC: the method's direction from each half, [2, N, C].
        sequence_HNC: the direction of gamma = 1 from each half, [2, N, C].

    Raises:
        ValueError: shapes differ, or there are not two halves.
    """
    m_HNC = np.asarray(direction_HNC, dtype=np.float64)
    one_HNC = np.asarray(sequence_HNC, dtype=np.float64)
    if m_HNC.shape != one_HNC.shape or m_HNC.shape[:1] != (2,):
        raise ValueError(f"halves must be [2, N, C], got {m_HNC.shape} and {one_HNC.shape}")
    gap_HNC = m_HNC - one_HNC
    return np.asarray((gap_HNC[0] * gap_HNC[1]).sum(axis=-1))


def root_ratio(sums: npt.ArrayLike) -> Floats:
    """Relative bias from sums (bias2, norm2), [..., 2] -> [...]: the root of their ratio.

    The root of a negative sum, which noise can cause around zero bias, counts as 0; NaN where the
    norm is not positive, or so small beside the bias that it is a residue of rounding.
    """
    sums_K = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(sums_K[..., 0], 0.0) / sums_K[..., 1])
    return np.where(_is_length(sums_K), root, np.nan)


def noise_ratio(sums: npt.ArrayLike) -> Floats:
    """Variance over squared length from sums (variance, norm2), [..., 2] -> [...]; NaN as above."""
    sums_K = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_is_length(sums_K), sums_K[..., 0] / sums_K[..., 1], np.nan)


def _is_length(sums_K: Floats) -> Bools:
    """Whether the second sum is a squared length, not what rounding leaves of one."""
    norm2 = sums_K[..., 1]
    return np.asarray((norm2 > 0) & ~is_residue(norm2, np.abs(sums_K[..., 0])))


def imbalance(log_ratio_T: npt.ArrayLike) -> Bools:
    """Where the drawn token is punished, r < 0, [T].

    The mean over tokens is the share of negative one-token signals: far above one half, the
    signal is mostly a push away from what the student does, and rarely one towards anything.
    """
    return np.asarray(np.asarray(log_ratio_T, dtype=np.float64) < 0.0)
