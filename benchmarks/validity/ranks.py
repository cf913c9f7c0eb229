"""Rank correlations with the gain, and how sure they are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.estimates import UNKNOWN, Estimate
from validity.comparison import spearman_rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OfConfigurations:
    """What is estimated from configurations.

    Attributes:
        estimate: with a 95 % percentile interval; configurations and, within each, seeds are
            resampled.
        count: number of configurations.
    """

    estimate: Estimate
    count: int

    def to_dict(self, name: str) -> dict[str, float]:
        """Return the fields; the estimate's value under a name."""
        return {**self.estimate.columns(name), "count": self.count}


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Pearson correlation of average ranks; NaN if either does not vary."""
    return float(spearman_rows(np.atleast_2d(x), np.atleast_2d(y))[0])


def correlate(
    predictor: Sequence[float],
    gains: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    num_resamples: int = 4000,
) -> OfConfigurations:
    """Spearman's correlation of a predictor with the mean gain over seeds, where it is defined.

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
        return OfConfigurations(UNKNOWN, count)
    chosen_BK, means_BK = _drawn(gain_KS, seed, num_resamples)
    drawn = spearman_rows(value_K[chosen_BK], means_BK)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = Estimate(spearman(value_K, gain_KS.mean(axis=1)), float(low), float(high))
    return OfConfigurations(found, count)


def difference(
    predictor: Sequence[float],
    other: Sequence[float],
    gains: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    num_resamples: int = 4000,
) -> OfConfigurations:
    """How much better one predictor ranks the same gains than another; see `correlate`.

    The other's correlation is taken with the sign that favours it; both are resampled together, on
    the configurations that have both.
    """
    value_K = np.asarray(predictor, dtype=np.float64)
    other_K = np.asarray(other, dtype=np.float64)
    there_K = np.isfinite(value_K) & np.isfinite(other_K)
    value_K, other_K = value_K[there_K], other_K[there_K]
    gain_KS = np.asarray(gains, dtype=np.float64)[there_K]
    if len(value_K) < 3:
        return OfConfigurations(UNKNOWN, len(value_K))
    mean_K = gain_KS.mean(axis=1)
    other_K = np.sign(spearman(other_K, mean_K)) * other_K
    chosen_BK, means_BK = _drawn(gain_KS, seed, num_resamples)
    drawn = spearman_rows(value_K[chosen_BK], means_BK)
    drawn -= spearman_rows(other_K[chosen_BK], means_BK)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = spearman(value_K, mean_K) - spearman(other_K, mean_K)
    return OfConfigurations(Estimate(found, float(low), float(high)), len(value_K))


def _drawn(gain_KS: Floats, seed: int, num_resamples: int) -> tuple[Ints, Floats]:
    """Resampled configurations, and their mean gains over resampled seeds, both [B, K]."""
    count, seeds = gain_KS.shape
    rng = np.random.default_rng(seed)
    chosen_BK = rng.integers(0, count, (num_resamples, count))
    of_seed_BKS = rng.integers(0, seeds, (num_resamples, count, seeds))
    return chosen_BK, gain_KS[chosen_BK[:, :, None], of_seed_BKS].mean(axis=2)


def reliability(gains: Sequence[Sequence[float]]) -> float:
    """Mean Spearman correlation between the gains of two seeds; NaN for one seed."""
    gain_KS = np.asarray(gains, dtype=np.float64)
    pairs = itertools.combinations(range(gain_KS.shape[1]), 2)
    found = [spearman(gain_KS[:, one], gain_KS[:, other]) for one, other in pairs]
    return float(np.mean(found)) if found else float("nan")


def correlate_all(
    predictors: Mapping[str, Sequence[float]], gains: Sequence[Sequence[float]]
) -> dict[str, OfConfigurations]:
    """Correlate every predictor with the gains, all with the same resampling seed."""
    return {name: correlate(values, gains) for name, values in predictors.items()}
