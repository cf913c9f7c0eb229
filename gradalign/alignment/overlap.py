"""How much student and teacher look at the same tokens.

Source: "Rethinking On-Policy Distillation" (arXiv 2604.13016). Everything is a function of the
two models' k most probable tokens at each position. A token that a model cannot choose (truncated
sampling, or k above the size of the vocabulary) is in no top-k set of that model. Axes: _L
positions, _W top tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Overlap:
    """Overlap of the two top-k sets at each position.

    Attributes:
        ratio_L: |top-k(P) and top-k(Q)| / k; where neither model has k tokens, over the larger of
            the two sets.
        mass_student_L: mass under P of the shared tokens.
        mass_teacher_L: mass under Q of the shared tokens.
        advantage_L: mean over the shared tokens of p~ (log q~ - log p~), both renormalised on
            them; NaN where nothing is shared.
        advantage_verl_L: sum over the shared tokens of Q (log Q - log P), what verl logs under
            the same name; NaN where nothing is shared.
    """

    ratio_L: Floats
    mass_student_L: Floats
    mass_teacher_L: Floats
    advantage_L: Floats
    advantage_verl_L: Floats


def overlap(
    student_ids_LW: npt.NDArray[np.int32],
    student_logprobs_LW: npt.NDArray[np.floating],
    teacher_ids_LW: npt.NDArray[np.int32],
    teacher_logprobs_LW: npt.NDArray[np.floating],
) -> Overlap:
    """Compare the two models' top tokens at each position.

    Raises:
        ValueError: the arrays are not all of one shape [positions, k].
    """
    shapes = {
        array.shape
        for array in (student_ids_LW, student_logprobs_LW, teacher_ids_LW, teacher_logprobs_LW)
    }
    if len(shapes) != 1 or student_ids_LW.ndim != 2:
        raise ValueError(f"all arrays must be [positions, k], got {sorted(shapes)}")
    inside_p_LW = student_logprobs_LW > -np.inf
    inside_q_LW = teacher_logprobs_LW > -np.inf
    size_L = np.maximum(inside_p_LW.sum(axis=1), inside_q_LW.sum(axis=1))
    same_LWW = student_ids_LW[:, :, None] == teacher_ids_LW[:, None, :]
    same_LWW &= inside_p_LW[:, :, None] & inside_q_LW[:, None, :]
    shared_LW = same_LWW.any(axis=2)
    match_LW = same_LWW.argmax(axis=2)
    log_p_LW = np.where(shared_LW, student_logprobs_LW.astype(np.float64), -np.inf)
    log_q_LW = np.where(
        shared_LW,
        np.take_along_axis(teacher_logprobs_LW.astype(np.float64), match_LW, axis=1),
        -np.inf,
    )
    p_LW, q_LW = np.exp(log_p_LW), np.exp(log_q_LW)
    count_L = shared_LW.sum(axis=1)
    mass_p_L, mass_q_L = p_LW.sum(axis=1), q_LW.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap_LW = np.where(p_LW > 0, log_q_LW - log_p_LW, 0.0)
        renormalised_LW = gap_LW - np.log(mass_q_L / mass_p_L)[:, None]
        terms_LW = np.where(p_LW > 0, p_LW / mass_p_L[:, None] * renormalised_LW, 0.0)
        advantage_L = terms_LW.sum(axis=1) / count_L
        verl_LW = np.where(q_LW > 0, q_LW * (log_q_LW - log_p_LW), 0.0)
    nothing_L = count_L == 0
    return Overlap(
        ratio_L=count_L / np.maximum(size_L, 1),
        mass_student_L=mass_p_L,
        mass_teacher_L=mass_q_L,
        advantage_L=np.where(nothing_L, np.nan, advantage_L),
        advantage_verl_L=np.where(nothing_L, np.nan, verl_LW.sum(axis=1)),
    )
