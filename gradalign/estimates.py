"""What is estimated and how surely: an arm, an estimate, a difference of two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class Arm(NamedTuple):
    """A teacher (model and context) with a method; the teacher is "" where none is looked at."""

    teacher: str
    method: str

    def __str__(self) -> str:
        """METHOD@TEACHER, or the method alone where it looks at no teacher."""
        return f"{self.method}@{self.teacher}" if self.teacher else self.method


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate; NaN where there is none, or where so few questions settle nothing.
        low, high: ends of the interval, each NaN by itself where it is not known. There may be
            an interval without a value: what the questions leave open.
        se: standard error over questions; NaN where it is not known.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    se: float = math.nan

    @property
    def positive(self) -> bool:
        """Whether there is a value, and the whole interval is above 0."""
        return self.known and self.low > 0

    @property
    def negative(self) -> bool:
        """Whether there is a value, and the whole interval is below 0."""
        return self.known and self.high < 0

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0."""
        return self.positive or self.negative

    @property
    def known(self) -> bool:
        """Whether there is a value, with an interval or without."""
        return math.isfinite(self.value)

    @property
    def span(self) -> tuple[float, float, float]:
        """Value, low and high."""
        return self.value, self.low, self.high

    def columns(self, name: str, ends: str = "") -> dict[str, float]:
        """Return the value and the ends as a table has them.

        Args:
            name: of the value's column.
            ends: what stands before `low` and `high` in the names of the others.
        """
        return {name: self.value, f"{ends}low": self.low, f"{ends}high": self.high}

    def __str__(self) -> str:
        value, low, high = ("-" if x != x else f"{x:+.2f}" for x in self.span)
        return value if low == high == "-" else f"{value} [{low}, {high}]"


UNKNOWN = Estimate(math.nan)
"""No value, and no interval."""


@dataclass(frozen=True)
class Difference(Estimate):
    """A difference of two estimates, one minus the other, with the p-value of no difference.

    Attributes:
        p_value: two-sided; NaN with fewer than 2 questions.
        adjusted_p: p-value that allows for its family; NaN until there is one.
        first, second: names of what is compared, where the difference stands by itself.
        num_nodes: nodes behind it, where the difference stands by itself.
    """

    p_value: float = math.nan
    adjusted_p: float = math.nan
    first: str = ""
    second: str = ""
    num_nodes: int = 0

    def significant(self, level: float) -> bool:
        """Whether the difference is there at a confidence level, correction included."""
        return bool(self.adjusted_p < 1.0 - level)

    def columns(self, name: str = "difference", ends: str = "") -> dict[str, float]:
        """Return the value, the ends and both p-values as a table has them."""
        return {
            **super().columns(name, ends),
            "p_value": self.p_value,
            "adjusted_p": self.adjusted_p,
        }
