"""Can a teacher go on from what the student began?

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). On-policy distillation
asks the teacher for targets after prefixes that it would not have written. Whether it knows what
to do there is measured by letting it continue from prefixes of several depths, against from
scratch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DEPTHS = (0.25, 0.5, 0.75)
"""Shares of a spine that are given; 0, from scratch, comes in addition."""

SAMPLES = 2
"""Continuations per spine and depth."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """What a prefix does to the outcome, over all pairs (from scratch, continued).

    Attributes:
        right_to_wrong: share of pairs that are right from scratch and wrong continued, [...].
        wrong_to_right: the other way round, [...]. Their difference is the drop in success.
    """

    right_to_wrong: Floats
    wrong_to_right: Floats


def transitions(scratch: npt.ArrayLike, continued: npt.ArrayLike) -> Transitions:
    """Count changes of outcome, the two being drawn independently.

    Args:
        scratch: success rate from scratch, in [0, 1], [...].
        continued: success rate from the prefix, in [0, 1], same shape.

    Raises:
        ValueError: shapes differ.
    """
    a, b = np.asarray(scratch, dtype=np.float64), np.asarray(continued, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scratch and continued must have one shape, got {a.shape}, {b.shape}")
    return Transitions(a * (1.0 - b), (1.0 - a) * b)


def cut(length: int, depth: float) -> int:
    """Return how many tokens of a spine are given at a depth; never its last one."""
    return min(int(depth * length), max(length - 1, 0))


def num_continuations(num_spines: int, num_teachers: int) -> int:
    """Return how many continuations the diagnostic samples, for the plan.

    Every teacher starts from scratch and at every depth; the student at every depth only, its
    spines being its responses from scratch. Spines so short that nothing is given at a depth
    have fewer.
    """
    return num_spines * SAMPLES * (num_teachers * (1 + len(DEPTHS)) + len(DEPTHS))


def num_tokens(spine_tokens: float, num_teachers: int) -> float:
    """Return how many tokens are sampled if responses stay as long as the student's.

    Args:
        spine_tokens: tokens of all spines.
        num_teachers: teachers, each with its context.
    """
    left = sum(1.0 - depth for depth in DEPTHS)
    return spine_tokens * SAMPLES * (num_teachers * (1.0 + left) + left)
