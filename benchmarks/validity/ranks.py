"""Rank correlations with the gain, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


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
    count, seeds = gain_KS.shape
    if count < 3:
        return RankCorrelation(float("nan"), float("nan"), float("nan"), count)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(num_resamples):
        chosen = rng.integers(0, count, count)
        of_seed = rng.integers(0, seeds, (count, seeds))
        means = np.take_along_axis(gain_KS[chosen], of_seed, axis=1).mean(axis=1)
        drawn.append(spearman(value_K[chosen], means))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return RankCorrelation(spearman(value_K, gain_KS.mean(axis=1)), float(low), float(high), count)


def reliability(gains: Sequence[Sequence[float]]) -> float:
    """Spearman correlation between the gains of two halves of the seeds: the ceiling of any rho."""
    gain_KS = np.asarray(gains, dtype=np.float64)
    half = gain_KS.shape[1] // 2
    if half == 0:
        return float("nan")
    return spearman(gain_KS[:, :half].mean(axis=1), gain_KS[:, half:].mean(axis=1))


def correlate_all(
    predictors: Mapping[str, Sequence[float]], gains: Sequence[Sequence[float]]
) -> dict[str, RankCorrelation]:
    """Correlate every predictor with the gains, all with the same resampling seed."""
    return {name: correlate(values, gains) for name, values in predictors.items()}
