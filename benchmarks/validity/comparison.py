"""How well predictors tell trainings apart: ranks, choices, signs and sizes, with intervals.

Gains are [K, S, Q]: configurations, seeds, and blocks of held-out questions (one block where
questions were not kept). Intervals are of 95 %, by the percentiles of a bootstrap that resamples
configurations, each one's seeds, and the blocks, which all configurations share. Configurations
that share a teacher are resampled as if they were independent, so intervals are, if anything, too
narrow. Axes: _B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
CLEAR = 2.0
"""A gain has a sign where it is so many standard errors from 0."""


@dataclass(frozen=True)
class Gains:
    """Gains of the configurations of a pair, trained in one way for one number of steps.

    Attributes:
        gain_KSQ: in success, per block; blocks count alike.
    """

    gain_KSQ: Floats

    @property
    def mean_K(self) -> Floats:
        """The gain of every configuration."""
        return self.gain_KSQ.mean(axis=(1, 2))

    @property
    def error_K(self) -> Floats:
        """Its standard error over seeds and, where blocks are kept, over blocks."""
        return np.asarray([_error(gain_SQ) for gain_SQ in self.gain_KSQ])

    def of(self, chosen_K: npt.NDArray[Any]) -> Gains:
        """Those of some configurations."""
        return Gains(self.gain_KSQ[chosen_K])

    def drawn(self, seed: int = 0) -> tuple[Ints, Floats]:
        """Resampled configurations, and their gains over resampled seeds and blocks, [B, K]."""
        count, seeds, blocks = self.gain_KSQ.shape
        rng = np.random.default_rng(seed)
        chosen_BK = rng.integers(0, count, (RESAMPLES, count))
        seeds_BKS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), (RESAMPLES, count)) / seeds
        blocks_BQ = rng.multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES) / blocks
        by_block_BKS = np.einsum("ksq,bq->bks", self.gain_KSQ, blocks_BQ)
        of_own_BKS = by_block_BKS[np.arange(RESAMPLES)[:, None], chosen_BK]
        return chosen_BK, (of_own_BKS * seeds_BKS).sum(axis=2)


def _error(gain_SQ: Floats) -> float:
    """Standard error of a mean over seeds and blocks; the larger of the two ways to see it.

    Over blocks it holds the questions' noise and that of responses; over seeds the training's.
    """
    seeds, blocks = gain_SQ.shape
    found = [0.0]
    if blocks > 1:
        found.append(float(gain_SQ.mean(axis=0).std(ddof=1) / np.sqrt(blocks)))
    if seeds > 1:
        found.append(float(gain_SQ.mean(axis=1).std(ddof=1) / np.sqrt(seeds)))
    return max(found)


def spearman_rows(x_BK: npt.ArrayLike, y_BK: npt.ArrayLike) -> Floats:
    """Spearman's correlation of every row; NaN where one side does not vary."""
    x_BK, y_BK = (rankdata(np.asarray(side, dtype=np.float64), axis=1) for side in (x_BK, y_BK))
    return _correlation(
        x_BK - x_BK.mean(axis=1, keepdims=True), y_BK - y_BK.mean(axis=1, keepdims=True)
    )


def kendall_rows(x_BK: npt.ArrayLike, y_BK: npt.ArrayLike) -> Floats:
    """Kendall's tau-b of every row; NaN where one side does not vary."""
    one, other = np.triu_indices(np.asarray(x_BK).shape[1], 1)
    x_BP, y_BP = (
        np.sign(np.asarray(side)[:, one] - np.asarray(side)[:, other]) for side in (x_BK, y_BK)
    )
    return _correlation(x_BP, y_BP)


def _correlation(x_BP: Floats, y_BP: Floats) -> Floats:
    norm_B = np.sqrt((x_BP**2).sum(axis=1) * (y_BP**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((x_BP * y_BP).sum(axis=1) / norm_B)


def ranking(value_K: Floats, gains: Gains) -> dict[str, Any]:
    """Spearman's and Kendall's correlation of a predictor with the gain, with intervals."""
    there_K = np.isfinite(value_K)
    gains, value_K = gains.of(there_K), value_K[there_K]
    found: dict[str, Any] = {"count": len(value_K)}
    if len(value_K) < 3:
        return found | {"spearman": None, "kendall": None}
    chosen_BK, gain_BK = gains.drawn()
    for name, correlate in (("spearman", spearman_rows), ("kendall", kendall_rows)):
        (at,) = correlate(value_K[None], gains.mean_K[None])
        found[name] = [float(at), *_span(correlate(value_K[chosen_BK], gain_BK))]
    return found


def difference(value_K: Floats, other_K: Floats, gains: Gains) -> list[float] | None:
    """How much better one predictor ranks the gains than another, both resampled together.

    Only configurations that have both count. None for fewer than three.
    """
    there_K = np.isfinite(value_K) & np.isfinite(other_K)
    gains, value_K, other_K = gains.of(there_K), value_K[there_K], other_K[there_K]
    if len(value_K) < 3:
        return None
    chosen_BK, gain_BK = gains.drawn()
    drawn = spearman_rows(value_K[chosen_BK], gain_BK) - spearman_rows(other_K[chosen_BK], gain_BK)
    mean_K = gains.mean_K[None]
    at = spearman_rows(value_K[None], mean_K) - spearman_rows(other_K[None], mean_K)
    return [float(at[0]), *_span(drawn)]


def regret(value_K: Floats, gains: Gains) -> dict[str, float] | None:
    """What the best configuration gained beyond the one that a predictor puts first.

    Returns:
        `regret`, the standard error of that difference, and `chosen`, the index of the first;
        None without a value.
    """
    if not np.isfinite(value_K).any():
        return None
    chosen = int(np.nanargmax(value_K))
    best = int(np.argmax(gains.mean_K))
    apart_SQ = gains.gain_KSQ[best] - gains.gain_KSQ[chosen]
    return {"regret": float(apart_SQ.mean()), "error": _error(apart_SQ), "chosen": chosen}


def signs(value_K: Floats, gains: Gains) -> dict[str, float]:
    """How often a predictor has the sign of the gain, among gains that have one."""
    mean_K, there_K = gains.mean_K, np.isfinite(value_K)
    clear_K = there_K & (np.abs(mean_K) > CLEAR * gains.error_K)
    right_K = np.sign(value_K[clear_K]) == np.sign(mean_K[clear_K])
    harm_K = mean_K[clear_K] < 0
    return {
        "count": int(clear_K.sum()),
        "agree": float(right_K.mean()) if len(right_K) else float("nan"),
        "harmful": int(harm_K.sum()),
        "harm_found": float(right_K[harm_K].mean()) if harm_K.any() else float("nan"),
    }


def calibration(predicted_K: Floats, gains: Gains) -> dict[str, float] | None:
    """Slope of the gain on what was predicted, through the origin, and root mean square error.

    None for fewer than three.
    """
    there_K = np.isfinite(predicted_K)
    if there_K.sum() < 3:
        return None
    x_K, y_K = predicted_K[there_K], gains.mean_K[there_K]
    square = float((x_K**2).sum())
    return {
        "slope": float((x_K * y_K).sum() / square) if square else float("nan"),
        "error": float(np.sqrt(((x_K - y_K) ** 2).mean())),
    }


def favoured(value_K: Floats, gains: Gains) -> tuple[Floats, float]:
    """A predictor with the sign that favours it, and its correlation then."""
    there_K = np.isfinite(value_K)
    if there_K.sum() < 3:
        return value_K, float("nan")
    (rho,) = spearman_rows(value_K[there_K][None], gains.of(there_K).mean_K[None])
    return (-value_K, -float(rho)) if rho < 0 else (value_K, float(rho))


def best_of(values: Mapping[str, Floats], gains: Gains) -> str:
    """The name of the predictor that ranks best, each with the sign that favours it."""
    found = {name: favoured(value_K, gains)[1] for name, value_K in values.items()}
    return max(found, key=lambda name: -1.0 if np.isnan(found[name]) else found[name])


def _span(drawn_B: Floats) -> list[float]:
    low, high = np.nanquantile(drawn_B, [0.025, 0.975])
    return [float(low), float(high)]
