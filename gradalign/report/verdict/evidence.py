"""How the numbers that arms are ranked by did on pairs of models that were trained.

evidence.json is written by `python benchmarks/evidence.py tables` from the trainings' results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """What a number told of trainings, a place per pair.

    Attributes:
        pairs: names of the pairs of models.
        spearman: its rank correlation with the gains in success of all of a pair's trainings.
        regret: what the best training gained beyond the one that the number puts first.
        real: pairs of which the student is a published model.
    """

    pairs: tuple[str, ...]
    spearman: tuple[float, ...]
    regret: tuple[float, ...]
    real: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """It in words; empty without a pair."""
        if not self.pairs:
            return ""
        count, low, high = len(self.pairs), min(self.spearman), max(self.spearman)
        what = "pair" if count == 1 else "pairs"
        real = f", {len(self.real)} of them real," if self.real else " of small models"
        ranked = f"{low:.2f}" if count == 1 else f"{low:.2f} to {high:.2f}"
        return (
            f"On {count} {what}{real} it ranked trainings at {ranked} (Spearman), and its first "
            f"choice gained at most {max(max(self.regret), 0.0):.3f} less than the best."
        )


def evidence_of(name: str) -> Evidence:
    """Return what is known of a number.

    Args:
        name: a column of the summary, or "rehearsed".
    """
    found = _all().get(name, [])
    return Evidence(
        pairs=tuple(row["pair"] for row in found),
        spearman=tuple(row["spearman"] for row in found),
        regret=tuple(row["regret"] for row in found),
        real=tuple(row["pair"] for row in found if row["real"]),
    )


@cache
def _all() -> dict[str, list[dict[str, Any]]]:
    text = (files("gradalign.report.verdict") / "evidence.json").read_text()
    found: dict[str, list[dict[str, Any]]] = json.loads(text)
    return found
