"""Pairs by name, so that worker processes can be told which one to take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from validity.automaton import AUTOMATON
from validity.counting_pair import counting, train_models
from validity.pairs import ADDITION, Pair
from validity.sorting import SORTING
from validity.sums_pair import make_models, smollm2

MODELS_VARIABLE = "GRADALIGN_VALIDITY_MODELS"
"""Tells worker processes where the folders of models lie of pairs that are not bundled."""

STUDENT_VARIABLE = "GRADALIGN_VALIDITY_STUDENT"
"""Tells them where the published model of the real pair lies."""


def _folder(name: str) -> Path:
    return Path(os.environ[MODELS_VARIABLE]) / f"{name}-models"


def _student() -> Path:
    return Path(os.environ[STUDENT_VARIABLE])


PAIRS: dict[str, Callable[[], Pair]] = {
    "addition": lambda: ADDITION,
    "counting": lambda: counting(_folder("counting")),
    "sorting": lambda: SORTING.pair(_folder("sorting")),
    "automaton": lambda: AUTOMATON.pair(_folder("automaton")),
    "smollm2": lambda: smollm2(_student(), _folder("smollm2")),
}


def pair_of(name: str) -> Pair:
    """Return a pair by its name; its models are there."""
    return PAIRS[name]()


def prepared(
    name: str, work_dir: Path, student: Path | None = None, say: Callable[[str], None] = print
) -> Pair:
    """Return a pair, training its models first if they are not bundled.

    Args:
        name: of the pair.
        work_dir: where models are kept, those of each pair in a folder.
        student: the published model of the real pair.
        say: is told of every model that is made.

    Raises:
        ValueError: the real pair is asked for without its published model.
    """
    os.environ[MODELS_VARIABLE] = str(work_dir)
    if name == "counting":
        train_models(_folder(name))
    elif name in ("sorting", "automaton"):
        toy = {"sorting": SORTING, "automaton": AUTOMATON}[name]
        toy.make_models(_folder(name), say)
    elif name == "smollm2":
        if student is None:
            raise ValueError("pair smollm2 needs --student, the folder of SmolLM2-135M-Instruct")
        os.environ[STUDENT_VARIABLE] = str(student)
        make_models(student, _folder(name), say)
    return pair_of(name)
