"""Rank correlations with the gain, and how sure they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of a predictor with the gain.

    Attributes:
        rho: over all configurations that the predictor is defined for.
        low, high: 95 % percentile interval; configurations and, within each, seeds are resampled.
        count: number of configurations.
    """

    rho: float
    low: float
    high: float
    count: int


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Pearson correlation of average ranks; NaN if either does not vary."""
    rank_x = rankdata(np.asarray(x, dtype=np.float64))
    rank_y = rankdata(np.asarray(y, dtype=np.float64))
    if np.ptp(rank_x) == 0 or np.ptp(rank_y) == 0:
        return float("nan")
    return float(np.corrcoef(rank_x, rank_y)[0, 1])


@dataclass(frozen=True)
class RankDifference:
    """How much better one predictor ranks than another, on the configurations that have both.

    Attributes:
        difference: of Spearman's correlations, the other's taken with the sign that favours it.
        low, high: 95 % percentile interval; both are resampled together.
        count: number of configurations.
    """

    difference: float
    low: float
    high: float
    count: int


def correlate(
    predictor: Sequence[float],
    gains: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    num_resamples: int = 4000,
) -> RankCorrelation:
    """Correlate a predictor with the mean gain over seeds, leaving out undefined values.

    Args:
        predictor: one value per configuration, NaN where it has none.
        gains: the gain of every seed, per configuration.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
    """
    value_K = np.asarray(predictor, dtype=np.float64)
    there_K = np.isfinite(value_K)
    gain_KS = np.asarray(gains, dtype=np.float64)[there_K]
    value_K = value_K[there_K]
    count = len(value_K)
    if count < 3:
        return RankCorrelation(float("nan"), float("nan"), float("nan"), count)
    drawn = [
        spearman(value_K[chosen], means) for chosen, means in _drawn(gain_KS, seed, num_resamples)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return RankCorrelation(spearman(value_K, gain_KS.mean(axis=1)), float(low), float(high), count)


def difference(
    predictor: Sequence[float],
    other: Sequence[float],
    gains: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    num_resamples: int = 4000,
) -> RankDifference:
    """Compare two predictors of the same gains; see `correlate`."""
    value_K = np.asarray(predictor, dtype=np.float64)
    other_K = np.asarray(other, dtype=np.float64)
    there_K = np.isfinite(value_K) & np.isfinite(other_K)
    value_K, other_K = value_K[there_K], other_K[there_K]
    gain_KS = np.asarray(gains, dtype=np.float64)[there_K]
    if len(value_K) < 3:
        return RankDifference(float("nan"), float("nan"), float("nan"), len(value_K))
    mean_K = gain_KS.mean(axis=1)
    other_K = np.sign(spearman(other_K, mean_K)) * other_K
    drawn = [
        spearman(value_K[chosen], means) - spearman(other_K[chosen], means)
        for chosen, means in _drawn(gain_KS, seed, num_resamples)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = spearman(value_K, mean_K) - spearman(other_K, mean_K)
    return RankDifference(found, float(low), float(high), len(value_K))


def _drawn(gain_KS: Floats, seed: int, num_resamples: int) -> Iterator[tuple[Ints, Floats]]:
    """Yield resampled configurations, and their mean gains over resampled seeds."""
    count, seeds = gain_KS.shape
    rng = np.random.default_rng(seed)
    for _ in range(num_resamples):
        chosen = rng.integers(0, count, count)
        of_seed = rng.integers(0, seeds, (count, seeds))
        yield chosen, np.take_along_axis(gain_KS[chosen], of_seed, axis=1).mean(axis=1)


def reliability(gains: Sequence[Sequence[float]]) -> float:
    """Mean Spearman correlation between the gains of two seeds; NaN for one seed."""
    gain_KS = np.asarray(gains, dtype=np.float64)
    pairs = itertools.combinations(range(gain_KS.shape[1]), 2)
    found = [spearman(gain_KS[:, one], gain_KS[:, other]) for one, other in pairs]
    return float(np.mean(found)) if found else float("nan")


def correlate_all(
    predictors: Mapping[str, Sequence[float]], gains: Sequence[Sequence[float]]
) -> dict[str, RankCorrelation]:
    """Correlate every predictor with the gains, all with the same resampling seed."""
    return {name: correlate(values, gains) for name, values in predictors.items()}
