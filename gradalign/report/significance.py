"""Confidence, and Holm's correction for comparisons between runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradalign.errors import UsageError


def check_level(level: float) -> None:
    """Refuse a confidence that no interval has.

    Raises:
        UsageError: it is not in [0.5, 1).
    """
    if not 0.5 <= level < 1.0:
        raise UsageError(f"level {level} is not a confidence in [0.5, 1).", "Use 0.95.")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down method; NaN stays NaN and does not count.

    Rejecting where the adjusted value is below alpha keeps the chance of any false rejection in
    the family below alpha, whatever the dependence between the tests (Holm, "A Simple
    Sequentially Rejective Multiple Test Procedure", 1979).
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)  # NaN comes last
    adjusted = np.full(len(values), np.nan)
    count, running = int(np.isfinite(values).sum()), 0.0
    for rank, index in enumerate(order[:count]):
        running = max(running, float(values[index]) * (count - rank))
        adjusted[index] = min(running, 1.0)
    return [float(value) for value in adjusted]


def resamples_for(num_questions: int) -> int:
    """Return how many resamples a corrected p-value wants.

    With few questions the t distribution's tails are heavy, and the smallest p-value that B
    resamples can give has to get under alpha over the number of comparisons.
    """
    return 10_000 if num_questions > 100 else 50_000
