"""Pairs by name, so that worker processes can be told which one to take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from validity.counting_pair import counting, train_models
from validity.pairs import ADDITION, Pair

MODELS_VARIABLE = "GRADALIGN_VALIDITY_MODELS"
"""Tells worker processes where the models of pairs that are not bundled lie."""

PAIRS: dict[str, Callable[[], Pair]] = {
    "addition": lambda: ADDITION,
    "counting": lambda: counting(Path(os.environ[MODELS_VARIABLE])),
}


def pair_of(name: str) -> Pair:
    """Return a pair by its name; its models are there."""
    return PAIRS[name]()


def prepared(name: str, work_dir: Path) -> Pair:
    """Return a pair, training its models first if they are not bundled."""
    if name == "counting":
        folder = work_dir / "counting-models"
        train_models(folder)
        os.environ[MODELS_VARIABLE] = str(folder)
    return pair_of(name)
