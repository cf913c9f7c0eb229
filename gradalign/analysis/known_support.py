"""Supports without the tokens of which a teacher's server said nothing.

Axes: _N nodes, _S support.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Support:
    """Both distributions at many nodes, as the table `distributions` has them.

    Attributes:
        ids_NS: token ids, rising along a row, -1 at padding.
        mask_NS: True where there is a token.
        log_p_NS, log_q_NS: of the student and of the teacher; NaN in `log_q_NS` is "not known".
        log_tail_p_N, log_tail_q_N: log of the mass of all other tokens; the teacher's includes
            the tokens that are not known.
        num_tail_N: how many other tokens there are.
        tail_powers: per temperature T, log of the sums over the tail of p^(1/T) and q^(1/T);
            NaN for a teacher whose tail is not known token by token.
        top_limit: so many of each model's most probable tokens are surely there.
    """

    ids_NS: Ints
    mask_NS: Bools
    log_p_NS: Floats
    log_q_NS: Floats
    log_tail_p_N: Floats
    log_tail_q_N: Floats
    num_tail_N: Ints
    tail_powers: dict[float, tuple[Floats, Floats]]
    top_limit: int


def known_support(support: Support) -> Support:
    """Move tokens that the teacher's server said nothing of to the tail of both models.

    What is kept is exact: the teacher's tail holds their mass already, the student's gets it
    here. `top_limit` falls to what the student's most probable token among them leaves. Where
    the teacher's tempered tail is not known, its mass counts as spread evenly over its tokens,
    as in `NodeBatch.at` without tail powers.
    """
    unknown_NS = support.mask_NS & np.isnan(support.log_q_NS)
    if unknown_NS.any():
        support = _moved(support, unknown_NS)
    return replace(
        support,
        tail_powers={
            temperature: (
                student_N,
                np.where(np.isnan(teacher_N), _even(support, temperature), teacher_N),
            )
            for temperature, (student_N, teacher_N) in support.tail_powers.items()
        },
    )


def _moved(support: Support, unknown_NS: Bools) -> Support:
    keep_NS = support.mask_NS & ~unknown_NS
    # Kept tokens first, in their order; then what has become padding.
    order_NS = np.argsort(~keep_NS, axis=1, kind="stable")
    width = int(keep_NS.sum(axis=1).max(initial=1))

    def kept(values_NS: npt.NDArray[np.generic], fill: float) -> npt.NDArray[np.generic]:
        moved = np.where(keep_NS, values_NS, fill).astype(values_NS.dtype)
        return np.take_along_axis(moved, order_NS, axis=1)[:, :width]

    log_p_lost_NS = np.where(unknown_NS, support.log_p_NS, -np.inf)
    best_lost_N = log_p_lost_NS.max(axis=1, initial=-np.inf)
    before_N = (keep_NS & (support.log_p_NS > best_lost_N[:, None])).sum(axis=1)
    has_lost_N = unknown_NS.any(axis=1)
    return Support(
        ids_NS=kept(support.ids_NS, -1).astype(np.int64),
        mask_NS=kept(support.mask_NS, 0).astype(np.bool_),
        log_p_NS=kept(support.log_p_NS, -np.inf).astype(np.float64),
        log_q_NS=kept(support.log_q_NS, -np.inf).astype(np.float64),
        log_tail_p_N=_with_tail(log_p_lost_NS, support.log_tail_p_N),
        log_tail_q_N=support.log_tail_q_N,
        num_tail_N=support.num_tail_N + unknown_NS.sum(axis=1),
        tail_powers={
            temperature: (_with_tail(log_p_lost_NS / temperature, student_N), teacher_N)
            for temperature, (student_N, teacher_N) in support.tail_powers.items()
        },
        top_limit=int(min(support.top_limit, before_N[has_lost_N].min())),
    )


def _with_tail(log_NS: Floats, log_tail_N: Floats) -> Floats:
    return np.asarray(np.logaddexp(np.logaddexp.reduce(log_NS, axis=1), log_tail_N))


def _even(support: Support, temperature: float) -> Floats:
    """Return the log of the sum of q^(1/T) of a teacher's tail that is spread evenly."""
    count_N = np.log(np.maximum(support.num_tail_N, 1))
    return np.asarray(count_N + (support.log_tail_q_N - count_N) / temperature)
