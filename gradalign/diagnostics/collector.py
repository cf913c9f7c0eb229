"""Collecting what the summary of the diagnostics is made of: sums per question, by split.

Shards come one after the other; memory grows with the number of questions, not of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign.alignment import cluster_bootstrap, mean_of_sums, pooled_of_sums
from gradalign.alignment.scores import POOLING, pooling_columns
from gradalign.estimates import Estimate
from gradalign.rounding import difference, is_residue
from gradalign.store.splits import QUESTION

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Splits = Mapping[str, Bools]


BOUNDS = {
    **dict.fromkeys(
        (
            "overlap_ratio",
            "overlap_mass_student",
            "overlap_mass_teacher",
            "shared_share",
            "negative_share",
            "success",
            "validity",
            "right_to_wrong",
            "wrong_to_right",
            "accuracy",
            "best_share",
            "opposed_share",
            "routed_share",
        ),
        (0.0, 1.0),
    ),
    **dict.fromkeys(("cosine", "cosine_to_full", "drop", "edge", "accuracy_gap"), (-1.0, 1.0)),
    **dict.fromkeys(
        ("entropy_gap", "norm_ratio", "distance", "conflict", "divergence", "shared_kl"),
        (0.0, np.inf),
    ),
    **dict.fromkeys(("noise_ratio", "relative_bias"), (0.0, np.inf)),
    **dict.fromkeys(("reverse_kl", "forward_kl"), (0.0, np.inf)),
}
"""What a diagnostic cannot exceed; widened intervals of few questions may."""


@dataclass(frozen=True, order=True)
class FigureKey:
    """What a figure of the summary is of; see the table's columns."""

    mechanism: str
    teacher: str
    diagnostic: str
    variant: str = ""


@dataclass(frozen=True)
class Figure:
    """One row of the summary, but for its advice."""

    key: FigureKey
    split: str
    num_questions: int
    estimate: Estimate


Part = tuple[npt.NDArray[np.int32], Floats]
"""Numbers of some questions, [Q], and their sums, [Q, K]."""


class Collector:
    """Adds up columns per key, split and question.

    There are many figures, so a question costs no more in each than its sums: they are kept as
    one array per call of `add`.
    """

    def __init__(self) -> None:
        self._statistic: dict[FigureKey, Callable[[Floats], Floats]] = {}
        self._sums: dict[FigureKey, dict[str, list[Part]]] = {}
        self._numbers: dict[str, int] = {}

    def add(
        self,
        key: FigureKey,
        statistic: Callable[[Floats], Floats],
        question_N: npt.NDArray[np.object_],
        columns_NY: Floats,
        splits: Splits,
    ) -> None:
        """Add nodes (or tokens) to a figure.

        Args:
            key: the figure.
            statistic: of summed columns, as `cluster_bootstrap` takes it.
            question_N: the question of each, [N].
            columns_NY: weighted columns; rows that are not finite are left out, [N, K].
            splits: which belong to each split; a question's own split has no interval.
        """
        self._statistic[key] = statistic
        by_split = self._sums.setdefault(key, {})
        finite_N = np.isfinite(columns_NY).all(axis=1)
        for split, inside_N in splits.items():
            use_N = finite_N & inside_N
            names, at_N = np.unique(question_N[use_N].astype(str), return_inverse=True)
            sums_QY = np.zeros((len(names), columns_NY.shape[1]))
            np.add.at(sums_QY, at_N, columns_NY[use_N])
            parts = by_split.setdefault(split, [])
            if len(names):
                numbers = [
                    self._numbers.setdefault(name, len(self._numbers)) for name in names.tolist()
                ]
                parts.append((np.asarray(numbers, dtype=np.int32), sums_QY))

    def mean(
        self,
        key: FigureKey,
        question_N: npt.NDArray[np.object_],
        value_N: Floats,
        splits: Splits,
        weight_N: Floats | None = None,
    ) -> None:
        """Add to a weighted mean."""
        weights_N = np.ones(len(value_N)) if weight_N is None else weight_N
        columns_NY = np.column_stack([weights_N * value_N, weights_N])
        self.add(key, mean_of_sums, question_N, columns_NY, splits)

    def pooled(self, key: FigureKey, frame: pd.DataFrame, splits: Splits) -> None:
        """Add to a pooled alignment the rows of a table with dot, norms and weight."""
        self.add(key, pooled_of_sums, questions_of(frame), pooled_columns(frame), splits)

    def figures(self, seed: int, num_resamples: int) -> Iterator[Figure]:
        """Yield every figure with its interval over questions."""
        for key, by_split in self._sums.items():
            for split, parts in by_split.items():
                if not parts:
                    continue
                sums_QY = _per_question(parts)
                found = interval(sums_QY, self._statistic[key], split, seed, num_resamples)
                least, most = BOUNDS.get(key.diagnostic, (-np.inf, np.inf))
                low, high = np.clip([found.low, found.high], least, most).tolist()
                yield Figure(key, split, len(sums_QY), Estimate(found.value, low, high, found.se))


def _per_question(parts: list[Part]) -> Floats:
    """Add up what came of the same question; in the order in which questions first came."""
    number_M = np.concatenate([numbers for numbers, _ in parts])
    sums_MY = np.concatenate([sums for _, sums in parts])
    _, first_Q, at_M = np.unique(number_M, return_index=True, return_inverse=True)
    if len(first_Q) == len(number_M):
        return sums_MY
    sums_QY = np.zeros((len(first_Q), sums_MY.shape[1]))
    np.add.at(sums_QY, at_M, sums_MY)
    return np.asarray(sums_QY[np.argsort(first_Q)])


def interval(
    sums_QY: Floats,
    statistic: Callable[[Floats], Floats],
    split: str,
    seed: int,
    num_resamples: int,
) -> Estimate:
    """Return the bootstrap interval; of a single question only the estimate."""
    if split.startswith(QUESTION):
        return Estimate(float(statistic(sums_QY.sum(axis=0))))
    return cluster_bootstrap(sums_QY, statistic, seed=seed, num_resamples=num_resamples)


def pooled_difference(sums: Floats) -> Floats:
    """Pooled alignment of the first sums less that of the others, [..., 2 POOLING] -> [...]."""
    return difference(pooled_of_sums(sums[..., :POOLING]), pooled_of_sums(sums[..., POOLING:]))


def root_ratio(sums: npt.ArrayLike) -> Floats:
    """Relative bias from sums (bias2, norm2), [..., 2] -> [...]: the root of their ratio.

    The root of a negative sum, which noise can cause around zero bias, counts as 0; NaN where the
    norm is not positive, or so small beside the bias that it is a residue of rounding.
    """
    sums_Y = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum(sums_Y[..., 0], 0.0) / sums_Y[..., 1])
    return np.where(_is_length(sums_Y), root, np.nan)


def noise_ratio(sums: npt.ArrayLike) -> Floats:
    """Variance over squared length from sums (variance, norm2), [..., 2] -> [...]; NaN as above."""
    sums_Y = np.asarray(sums, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_is_length(sums_Y), sums_Y[..., 0] / sums_Y[..., 1], np.nan)


def _is_length(sums_Y: Floats) -> Bools:
    """Whether the second sum is a squared length, not what rounding leaves of one."""
    norm2 = sums_Y[..., 1]
    return np.asarray((norm2 > 0) & ~is_residue(norm2, np.abs(sums_Y[..., 0])))


def pooled_columns(frame: pd.DataFrame) -> Floats:
    """Return what pooling sums, weighted, [N, POOLING]."""
    columns = (
        frame[name].to_numpy(dtype=np.float64)
        for name in ("dot", "ideal_norm2", "method_norm2", "weight")
    )
    return pooling_columns(*columns)


def questions_of(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return the question of each row."""
    return np.asarray(frame["question_id"].astype(str).to_numpy(dtype=object))
