"""What one step of the foreseen training is: its optimizer, and how long it is.

SGD goes along a batch's update, AdamW divides every weight's by the root of its mean square. The
length is given as such, as a learning rate, or as the divergence that a step makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gradalign.errors import UsageError

Optimizer = Literal["sgd", "adamw"]
Unit = Literal["auto", "kl", "length", "lr"]

KL_GRID = (1e-3, 2.5e-4, 6.25e-5, 1.5625e-5)
"""Divergences of one step that `auto` chooses from, KL(P || P') of a whole response in nats."""

VALID = (
    "Write auto, kl=0.001, length=0.006, lr=1e-5, or one of these after adamw:, as adamw:lr=1e-6."
)


@dataclass(frozen=True)
class StepSpec:
    """One step of a training.

    Attributes:
        optimizer: sgd or adamw.
        unit: what `value` is: auto, chosen by `trials`; kl, the divergence KL(P || P') of whole
            responses that a step makes, nats; length, Euclidean, in the space of the weights, and
            for AdamW that of its first step; lr, a learning rate: of the mean over responses of a
            sum over tokens.
        value: NaN for auto.
    """

    optimizer: Optimizer
    unit: Unit
    value: float = math.nan

    @property
    def divergences(self) -> tuple[float, ...]:
        """Divergences that are tried out to find the length; none where it is given."""
        if self.unit == "auto":
            return KL_GRID
        return (self.value,) if self.unit == "kl" else ()


def parse_step(text: str) -> StepSpec:
    """Read `[sgd:|adamw:]auto`, `...kl=X`, `...length=X` or `...lr=X`.

    Raises:
        UsageError: it is none of these.
    """
    head, colon, rest = text.partition(":")
    optimizer, said = (head, rest) if colon else ("sgd", text)
    unit, equals, number = said.partition("=")
    try:
        value = float(number) if equals else math.nan
    except ValueError:
        value = -1.0
    known = unit in ("kl", "length", "lr") and 0 < value < math.inf
    right = not equals if unit == "auto" else known
    if optimizer not in ("sgd", "adamw") or not right:
        raise UsageError(f"--rehearse-step {text!r} is no step of a training.", VALID)
    return StepSpec(optimizer, unit, value)  # type: ignore[arg-type]
