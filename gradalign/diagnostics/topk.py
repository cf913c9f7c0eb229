"""What restricting a reverse KL to the top tokens does to its gradient.

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). The sum over a set S of
P log(P/Q) is not a divergence: its gradient has f_j = 1_S (r_j - 1), so that a token of S is
promoted only if Q_j > e P_j. Detaching the log ratio (f_j = 1_S r_j) or renormalising both
models on S repairs that. Axes: _N nodes, _S support.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SIZES = (1, 4, 16, 64)
"""The K that are compared."""

FORMS = {
    "biased": "norm=none",
    "stop_gradient": "norm=none,stop_gradient=true",
    "renorm": "norm=renorm",
}
"""Each form as options of the method `opd`."""

SUPPORT: Literal["intersection"] = "intersection"
"""Whose top tokens make up S: the paper's choice, tokens that are in both models' top K."""


def spec(form: str, k: int) -> str:
    """Return the method of a form and a set size, `opd` itself for the whole vocabulary."""
    return f"opd:top_k={k},support={SUPPORT},{FORMS[form]}" if k else "opd"


@dataclass(frozen=True, eq=False)
class Distortion:
    """How a direction differs from the full one at each node, over the whole vocabulary.

    Attributes:
        cosine_N: cosine of the two, NaN where either is zero.
        norm_ratio_N: |m| / |full|, NaN where the full one is zero.
        distance_N: |m - full| / |full|, NaN where the full one is zero.
        full_norm2_N: |full|^2.
    """

    cosine_N: Floats
    norm_ratio_N: Floats
    distance_N: Floats
    full_norm2_N: Floats


def distortion(
    direction_NS: npt.ArrayLike, full_NS: npt.ArrayLike, num_tail_N: npt.ArrayLike
) -> Distortion:
    """Compare a truncated direction with the full one.

    Directions sum to zero over the vocabulary; what is missing from the sum over the support
    lies on the tail and counts as spread evenly over its tokens.

    Args:
        direction_NS: the truncated direction; NaN rows are read as zero, [N, S].
        full_NS: the full one, likewise, [N, S].
        num_tail_N: number of tokens outside the support, [N].

    Raises:
        ValueError: shapes differ.
    """
    m_NS, full_NS = _finite(direction_NS), _finite(full_NS)
    count_N = np.asarray(num_tail_N, dtype=np.float64)
    if m_NS.shape != full_NS.shape or count_N.shape != m_NS.shape[:1]:
        raise ValueError(
            f"need two directions [N, S] and num_tail [N], got {m_NS.shape}, {full_NS.shape} and "
            f"{count_N.shape}"
        )
    norm_m_N = np.sqrt(_inner(m_NS, m_NS, count_N))
    norm_full_N = np.sqrt(_inner(full_NS, full_NS, count_N))
    gap_NS = m_NS - full_NS
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_N = _inner(m_NS, full_NS, count_N) / (norm_m_N * norm_full_N)
        ratio_N = norm_m_N / norm_full_N
        distance_N = np.sqrt(_inner(gap_NS, gap_NS, count_N)) / norm_full_N
    there_N = norm_full_N > 0
    return Distortion(
        cosine_N=np.where(there_N & (norm_m_N > 0), np.clip(cosine_N, -1.0, 1.0), np.nan),
        norm_ratio_N=np.where(there_N, ratio_N, np.nan),
        distance_N=np.where(there_N, distance_N, np.nan),
        full_norm2_N=norm_full_N**2,
    )


def _finite(direction_NS: npt.ArrayLike) -> Floats:
    return np.nan_to_num(np.asarray(direction_NS, dtype=np.float64), nan=0.0)


def _inner(first_NS: Floats, second_NS: Floats, count_N: Floats) -> Floats:
    tails_N = first_NS.sum(axis=1) * second_NS.sum(axis=1)
    spread_N = np.where(count_N > 0, tails_N / np.maximum(count_N, 1.0), 0.0)
    return np.asarray((first_NS * second_NS).sum(axis=1) + spread_N)
