"""What is left of a difference of nearly equal numbers: a residue of rounding is no signal.

|ghat|^2 less its noise, a sum over nodes whose terms cancel, two statistics that are the same, and
log(Q/P) of two passes of one model: each is a small number made of large ones. Once it is smaller
than what rounding does to its terms, its sign and size are accidents, and a quotient or a sign
test of it is one too: a cosine of exactly +-1, or an alignment of ten million. Every such place
asks here, and says "none" (exactly 0, or NaN) instead. Axes: _N nodes, _S tokens, _T tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EPS = float(np.finfo(np.float64).eps)

RESIDUE = 1e-9
"""A sum or difference of float64 numbers below this share of its terms is rounding.

The terms carry errors of some ten eps (1e-15) each, more where they are differences themselves.
Sampling noise is larger by many orders: a difference of noisy estimates falls below 1e-9 of its
terms by chance about once in 1e9 times, and would then say nothing either.
"""

FORWARD_PASS = {"float32": 64.0, "float16": 8.0, "bfloat16": 8.0}
"""How many eps of its dtype a log-probability l of a forward pass is off, over 1 + |l|.

Two passes of one model differ by the order of their sums (batch, padding, number of rows of the
output layer). float32 sums thousands of terms in float32; the half types sum in float32 too and
round between layers, so that fewer of their own, much larger, eps come together.
"""

_DTYPE_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def is_residue(value: npt.ArrayLike, size: npt.ArrayLike) -> Bools:
    """Whether sums are rounding of their terms; an empty sum (0 of size 0) is none.

    Args:
        value: sums or differences.
        size: sum of the absolute values of their terms.
    """
    value_N, size_N = np.asarray(value, dtype=np.float64), np.asarray(size, dtype=np.float64)
    return np.asarray((np.abs(value_N) <= RESIDUE * size_N) & (size_N > 0))


def difference(first: npt.ArrayLike, second: npt.ArrayLike) -> Floats:
    """Subtract, with exactly 0 where the two are equal up to rounding; NaN and inf as usual."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        found = a - b
        size = np.maximum(np.abs(a), np.abs(b))
        return np.where(np.isfinite(size) & (np.abs(found) <= RESIDUE * size), 0.0, found)


def pass_error(log_probs: npt.ArrayLike, dtype: str = "float32") -> Floats:
    """How far log-probabilities of two passes of one model may be apart, nats.

    Args:
        log_probs: natural logs; -inf gives inf.
        dtype: of the passes: float32, float16 or bfloat16; another counts as float32.
    """
    dtype = dtype if dtype in _DTYPE_EPS else "float32"
    return np.asarray(
        FORWARD_PASS[dtype] * _DTYPE_EPS[dtype] * (1.0 + np.abs(np.asarray(log_probs, np.float64)))
    )


def agreeing_rows(log_p_NS: Floats, log_q_NS: Floats, dtype: str = "float32") -> Bools:
    """Rows where Q is P up to the rounding of a forward pass, at every token, [N].

    A row agrees at float32's precision. Where ALL rows agree at the passes' own, coarser, dtype,
    all do: there the teacher is the student. Rows by themselves do not, since the rounding of half
    types averages out over many nodes, and what is small in all of them need not be nothing.

    Args:
        log_p_NS: natural logs, -inf where there is no mass or no token.
        log_q_NS: of the teacher.
        dtype: of the passes.
    """
    with np.errstate(invalid="ignore"):
        gap_NS = np.abs(log_q_NS - log_p_NS)
    gap_NS = np.where(np.isneginf(log_p_NS) & np.isneginf(log_q_NS), 0.0, gap_NS)
    gap_NS[~np.isfinite(gap_NS)] = np.inf  # mass on one side only
    error_NS = np.where(np.isfinite(log_p_NS), pass_error(log_p_NS, dtype), 0.0)
    if len(gap_NS) and (gap_NS <= error_NS).all():
        return np.ones(len(gap_NS), dtype=np.bool_)
    fine_NS = np.where(np.isfinite(log_p_NS), pass_error(log_p_NS), 0.0)
    return np.asarray((gap_NS <= fine_NS).all(axis=1))


def settled_ratios(log_q_T: npt.ArrayLike, log_p_T: npt.ArrayLike, dtype: str) -> Floats:
    """log(Q/P) of tokens; 0 for all of them if every one is within the passes' rounding, [T]."""
    log_q, log_p = np.asarray(log_q_T, np.float64), np.asarray(log_p_T, np.float64)
    ratio_T = log_q - log_p
    if np.isfinite(ratio_T).all() and (np.abs(ratio_T) <= pass_error(log_p, dtype)).all():
        return np.zeros_like(ratio_T)
    return np.asarray(ratio_T)
