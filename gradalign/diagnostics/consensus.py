"""What a student can learn of a teacher that is shown several contexts.

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). The student does not see
the context I, so the mean over contexts of KL(P||Q_I) is least at the consensus C, proportional
to exp(mean log Q_I). With Z its normaliser,

    mean KL(P||Q_I) = KL(P||C) + mean KL(C||Q_I),    mean KL(C||Q_I) = -log Z,

for every P: the first part can be learned (it is all there is if the contexts state one rule),
the second is conflict between the contexts, which no policy without them can follow. Axes:
_I contexts, _N nodes, _S support; the rest of the vocabulary is one bucket, which makes every
divergence a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.diagnostics.divergence import kl_divergence

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Consensus:
    """The geometric mean of several contexts' distributions.

    Attributes:
        log_c_NS: log C on the support, -inf at padding, [N, S]; all -inf where the contexts
            have no token in common.
        log_tail_c_N: log of the mass of C outside, [N].
        conflict_N: mean over contexts of KL(C||Q_I) = -log Z, nats, [N]; infinite where the
            contexts have no token in common.
        divergence_N: mean over contexts of KL(Q_I||C), nats, [N].
    """

    log_c_NS: Floats
    log_tail_c_N: Floats
    conflict_N: Floats
    divergence_N: Floats


def consensus(log_q_INS: npt.ArrayLike, log_tail_q_IN: npt.ArrayLike) -> Consensus:
    """Aggregate the distributions of several contexts at every node.

    Args:
        log_q_INS: log Q_I on a support that all contexts share, -inf at padding, [I, N, S].
        log_tail_q_IN: log of the mass of Q_I outside, -inf if there is none, [I, N].

    Raises:
        ValueError: the shapes do not fit, or there is no context.
    """
    inside_INS = np.asarray(log_q_INS, dtype=np.float64)
    tail_IN = np.asarray(log_tail_q_IN, dtype=np.float64)
    if inside_INS.ndim != 3 or tail_IN.shape != inside_INS.shape[:2] or not len(tail_IN):
        raise ValueError(
            "log_q must be [contexts, nodes, support] and log_tail_q [contexts, nodes], got "
            f"{inside_INS.shape} and {tail_IN.shape}"
        )
    mean_NX = np.concatenate([inside_INS, tail_IN[:, :, None]], axis=2).mean(axis=0)
    largest_N = mean_NX.max(axis=1)
    base_N = np.where(np.isfinite(largest_N), largest_N, 0.0)
    with np.errstate(divide="ignore"):
        log_z_N = base_N + np.log(np.exp(mean_NX - base_N[:, None]).sum(axis=1))
    there_N = np.isfinite(log_z_N)
    log_c_NX = np.where(
        there_N[:, None], mean_NX - np.where(there_N, log_z_N, 0.0)[:, None], -np.inf
    )
    log_c_NS, log_tail_c_N = log_c_NX[:, :-1], log_c_NX[:, -1]
    away_IN = [
        kl_divergence(q_NS, tail_N, log_c_NS, log_tail_c_N)
        for q_NS, tail_N in zip(inside_INS, tail_IN, strict=True)
    ]
    # Rounding can leave -1e-16 where all contexts are equal.
    return Consensus(
        log_c_NS=log_c_NS,
        log_tail_c_N=log_tail_c_N,
        conflict_N=np.maximum(-log_z_N, 0.0),
        divergence_N=np.maximum(np.mean(away_IN, axis=0), 0.0),
    )
