"""Who is better than whom: paired differences on the same nodes, corrected for their number.

Axes: _Q questions, _Y sums, _M methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit
from scipy.stats import norm

from gradalign.alignment import cluster_bootstrap, compare, pooled_of_sums
from gradalign.alignment.fieller import pooled_influence
from gradalign.alignment.findings import pooled_finding, spread
from gradalign.alignment.scores import POOLING
from gradalign.errors import UsageError
from gradalign.estimates import UNKNOWN, Arm, Difference, Estimate
from gradalign.report.node_scores import NodeScores
from gradalign.rounding import difference

Floats = npt.NDArray[np.float64]

POWER = 0.8
"""The chance of seeing a difference of the estimated size that `questions_needed` aims at."""


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


def mean_pooled(sums: npt.ArrayLike) -> Floats:
    """Mean over methods of the pooled alignment, [..., POOLING M] -> [...].

    A method that has no value in a resample makes the mean undefined there.
    """
    sums_Y = np.asarray(sums, dtype=np.float64)
    sums_MY = sums_Y.reshape(*sums_Y.shape[:-1], -1, POOLING)
    return np.asarray(pooled_of_sums(sums_MY).mean(axis=-1))


def mean_finding(sums: npt.ArrayLike, *, level: float) -> Estimate:
    """Return the mean over methods of pooled alignments, where every one of them may be said.

    Its standard error is that of the questions' mean influence, its interval of a t distribution.

    Args:
        sums: per-question sums of every method, side by side, [Q, POOLING M].
        level: coverage.
    """
    sums_QY = np.asarray(sums, dtype=np.float64)
    parts = np.split(sums_QY, sums_QY.shape[1] // POOLING, axis=1)
    found = [pooled_finding(part, level=level) for part in parts]
    if not all(item.known for item in found):
        return UNKNOWN
    value = float(np.mean([item.value for item in found]))
    se = spread(np.mean([pooled_influence(part) for part in parts], axis=0))
    half = float(stdtrit(max(len(sums_QY) - 1, 1), (1.0 + level) / 2)) * se
    return Estimate(value, value - half, value + half, se)


def compare_arms(
    scores: NodeScores, first: Arm, second: Arm, *, seed: int, level: float
) -> Difference:
    """Compare two arms on the nodes that both have; p-values are corrected by the caller."""
    return _compare(
        scores, (first,), (second,), (str(first), str(second)), pooled_of_sums, seed, level
    )


def compare_teachers(
    scores: NodeScores, first: str, second: str, methods: Sequence[str], *, seed: int, level: float
) -> Difference:
    """Compare two teachers by their mean over methods, so that no method is picked by its luck."""
    arms = [tuple(Arm(teacher, method) for method in methods) for teacher in (first, second)]
    return _compare(scores, arms[0], arms[1], (first, second), mean_pooled, seed, level)


def _compare(
    scores: NodeScores,
    first: Sequence[Arm],
    second: Sequence[Arm],
    names: tuple[str, str],
    statistic: Callable[[Floats], Floats],
    seed: int,
    level: float,
) -> Difference:
    both_N = scores.there(*first, *second)
    sums = [
        np.concatenate([scores.sums(arm, both_N) for arm in arms], axis=1)
        for arms in (first, second)
    ]
    with_nodes_Q = np.bincount(scores.question_N[both_N], minlength=len(scores.questions)) > 0
    sums = [part[with_nodes_Q] for part in sums]
    num_resamples = resamples_for(int(with_nodes_Q.sum()))
    width = sums[0].shape[1]
    result = compare(
        sums[0], sums[1], statistic, seed=seed, num_resamples=num_resamples, level=level
    )
    spread = cluster_bootstrap(
        np.concatenate(sums, axis=1),
        lambda both: difference(statistic(both[..., :width]), statistic(both[..., width:])),
        seed=seed,
        num_resamples=2_000,
        level=level,
    )
    return replace(
        result, first=names[0], second=names[1], num_nodes=int(both_N.sum()), se=spread.se
    )


def questions_needed(pair: Difference, num_questions: int, level: float, comparisons: int) -> float:
    """Return how many questions would probably settle a comparison.

    If the difference is what it seems to be, this many questions show it with a chance of
    80 %: the standard error falls with the square root of their number. Rollouts per question
    would lower only the part of it that comes from rollouts.

    Args:
        pair: the comparison.
        num_questions: how many it has now.
        level: confidence.
        comparisons: how many the correction has to allow for.
    """
    if not (np.isfinite(pair.se) and pair.se > 0 and abs(pair.value) > 0):
        return float("nan")
    reach = norm.isf((1.0 - level) / (2 * max(comparisons, 1))) + norm.ppf(POWER)
    return float(num_questions * (reach * pair.se / abs(pair.value)) ** 2)
