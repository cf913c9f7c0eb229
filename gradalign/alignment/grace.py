"""GRACE: how stable the student's gradients on a teacher's answers are from question to question.

Source: "In Good GRACEs: Principled Teacher Selection for Knowledge Distillation" (arXiv
2511.02833), as the authors' released code computes it (abhishekpanigrahi1996/GRACE, file
GRACE_computation.py). A teacher with a *lower* score should teach better. Axes: _Q questions, _D
entries of a gradient.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SPLITS = 10
HELD_OUT = 0.1
SMOOTHING = 1e-3
"""The defaults of the released code: random splits, share of questions held out, and nu."""


def grace(
    gradient_QD: npt.ArrayLike,
    *,
    splits: int = SPLITS,
    held_out: float = HELD_OUT,
    smoothing: float = SMOOTHING,
) -> float:
    """Return the mean over random splits of questions of Tr(S^-1 T).

    T is the mean of g g^T over the held-out questions; S is the mean of the same over the others,
    each g at length 1, smoothed: (1 - nu) S + nu tr(S) / D. g is the gradient of the mean negative
    log-likelihood of a teacher's answer under the student, projected to D dimensions at random.
    The split of number i is the permutation of `default_rng(i)`, of which the last questions are
    held out.

    The released code takes several answers of a question, all on one side of a split, where this
    takes one. It also scales its projection by 1 / sqrt(weights) instead of keeping lengths: that
    multiplies the score by a constant, and changes no ranking.

    Args:
        gradient_QD: gradients, a question each, [Q, D].
        splits: how many.
        held_out: share of the questions that are held out, one at least.
        smoothing: nu.

    Returns:
        The score; NaN with fewer than 2 questions, or without a gradient.
    """
    rows_QD = np.asarray(gradient_QD, dtype=np.float64)
    count, width = rows_QD.shape
    length_Q = np.linalg.norm(rows_QD, axis=1)
    if count < 2 or not length_Q.any():
        return float("nan")
    unit_QD = rows_QD / np.maximum(length_Q, 1e-12)[:, None]
    left = count - max(1, int(count * held_out))
    found = []
    for number in range(splits):
        order_Q = np.random.default_rng(number).permutation(count)
        own_QD, other_QD = unit_QD[order_Q[:left]], rows_QD[order_Q[left:]]
        kernel_DD = own_QD.T @ own_QD / left
        smooth_DD = (1.0 - smoothing) * kernel_DD
        smooth_DD[np.diag_indices(width)] += smoothing * np.trace(kernel_DD) / width
        solved_DQ = np.linalg.solve(smooth_DD, other_QD.T)
        found.append(float((other_QD.T * solved_DQ).sum()) / len(other_QD))
    return float(np.mean(found))
