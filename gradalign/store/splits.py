"""The named parts of a run's nodes: by outcome, by quarter of the response, by entropy.

Axes: _N nodes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

QUARTERS = ("0-25%", "25-50%", "50-75%", "75-100%")
ENTROPY_NAMES = ("low", "middle", "high")
QUESTION = "question:"
"""What comes before a question's id in the name of its own split."""


def outcome_splits(correct_N: npt.ArrayLike) -> dict[str, Bools]:
    """Return the splits all, correct and incorrect.

    Args:
        correct_N: true, false, or None or NaN where it is not known: then in neither split.
    """
    known_N = np.asarray(correct_N)
    right_N, wrong_N = (np.asarray(known_N == value, dtype=np.bool_) for value in (True, False))
    return {"all": np.ones(len(right_N), dtype=np.bool_), "correct": right_N, "incorrect": wrong_N}


def position_splits(relative_N: npt.ArrayLike) -> dict[str, Bools]:
    """Return the quarters of the response.

    Args:
        relative_N: 0 at the first token of the response, 1 at the last.
    """
    quarter_N = np.minimum((np.asarray(relative_N, dtype=np.float64) * 4).astype(int), 3)
    return {f"position:{name}": quarter_N == i for i, name in enumerate(QUARTERS)}


def entropy_edges(entropy_N: npt.ArrayLike) -> Floats:
    """Return what divides the student's entropies into thirds, [2]; zeros where there are none."""
    values_N = np.asarray(entropy_N, dtype=np.float64)
    if not len(values_N):
        return np.zeros(2)
    return np.asarray(np.quantile(values_N, [1 / 3, 2 / 3]), dtype=np.float64)


def entropy_splits(entropy_N: npt.ArrayLike, edges: Floats) -> dict[str, Bools]:
    """Return the thirds by the student's entropy.

    Args:
        entropy_N: nats.
        edges: as `entropy_edges` gives them for the nodes of the whole run.
    """
    level_N = np.searchsorted(edges, np.asarray(entropy_N, dtype=np.float64), side="right")
    return {f"entropy:{name}": level_N == i for i, name in enumerate(ENTROPY_NAMES)}
