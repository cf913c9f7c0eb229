"""How far student and teacher are apart at a node, from sparse distributions with a tail.

The tail is one bucket: what is returned is the divergence of the coarsened distributions, which
is never more than that of the full ones and equal to it where the support is the vocabulary.
Axes: _N nodes, _S support.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def kl_divergence(
    log_p_NS: npt.ArrayLike,
    log_tail_p_N: npt.ArrayLike,
    log_q_NS: npt.ArrayLike,
    log_tail_q_N: npt.ArrayLike,
) -> Floats:
    """KL(P || Q) in nats, [N]; infinite where Q lacks a token that P has.

    Args:
        log_p_NS: log P on the support, -inf at padding.
        log_tail_p_N: log of the mass of P outside, -inf if there is none.
        log_q_NS: log Q on the same tokens.
        log_tail_q_N: log of the mass of Q outside.
    """
    first_NS = np.column_stack([np.asarray(log_p_NS), np.asarray(log_tail_p_N)])
    second_NS = np.column_stack([np.asarray(log_q_NS), np.asarray(log_tail_q_N)])
    p_NS = np.exp(first_NS)
    with np.errstate(invalid="ignore"):
        gap_NS = np.where(p_NS > 0, first_NS - second_NS, 0.0)
    return np.asarray((p_NS * gap_NS).sum(axis=1))
