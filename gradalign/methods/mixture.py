"""Sums of methods: `dr_grpo+0.3*opd`, also of several teachers, and the best of two.

A plus sign separates parts only where a number and an asterisk follow, so that contexts such as
`self+answer` stay whole: `opd@demo:strong+0.5*opd@self+answer`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from gradalign.errors import UsageError
from gradalign.methods.base import Ascent, Estimator, Method, OptionInfo
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PLUS = re.compile(rf"\+(?={NUMBER}\*)")
_FACTOR = re.compile(rf"\s*({NUMBER})\*(.*)", flags=re.DOTALL)
BEST = "mix:best"
FIRST, SECOND = "gkd:beta=0", "opd"
"""What `mix:best` weighs unless told: the forward and the reverse KL."""


class Part(NamedTuple):
    """One summand: its coefficient, its method, and its teacher ("" for that of the arm)."""

    coefficient: float
    method: Method
    teacher: str = ""

    @property
    def spec(self) -> str:
        """METHOD or METHOD@TEACHER."""
        return f"{self.method.spec}@{self.teacher}" if self.teacher else self.method.spec


@dataclass(frozen=True)
class _OfParts(Method):
    """What methods that are made of others have in common."""

    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts are of one teacher, or each of a named one."""
        looking = [part for part in self.parts if "teacher" in part.method.needs]
        named = [part for part in self.parts if part.teacher]
        if named and any(not part.teacher for part in looking):
            raise UsageError(
                f"some parts of {self.spec!r} name their teacher and some do not.",
                "Write METHOD@TEACHER in every part that looks at one, or in none.",
            )
        for part in named:
            if part not in looking:
                raise UsageError(
                    f"{part.method.spec!r} looks at no teacher.", f"Leave out @{part.teacher}."
                )

    @property
    def name(self) -> str:
        """The whole text: a sum has no options of its own."""
        return self.spec

    @classmethod
    def options(cls) -> tuple[OptionInfo, ...]:
        """None of its own."""
        return ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers that parts name."""
        return tuple(dict.fromkeys(part.teacher for part in self.parts if part.teacher))

    @property
    def of_teacher(self) -> bool:
        """Whether it is scored under each teacher: one that names teachers is not."""
        return "teacher" in self.needs and not self.teachers

    @property
    def expected_needs(self) -> frozenset[str]:
        """What any part needs."""
        return self._any(lambda method: method.expected_needs)

    @property
    def sampled_needs(self) -> frozenset[str]:
        """What any part needs."""
        return self._any(lambda method: method.sampled_needs)

    @property
    def needs(self) -> frozenset[str]:
        """What any part needs."""
        return self._any(lambda method: method.needs)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Those of all parts."""
        found = (value for part in self.parts for value in part.method.temperatures)
        return tuple(dict.fromkeys(found))

    @property
    def beyond_nodes(self) -> str:
        """What the first such part needs."""
        return next((p.method.beyond_nodes for p in self.parts if p.method.beyond_nodes), "")

    @property
    def top_tokens(self) -> int:
        """The most of any part."""
        return max((part.method.top_tokens for part in self.parts), default=0)

    def _any(self, needs: Callable[[Method], frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*(needs(part.method) for part in self.parts))


@dataclass(frozen=True)
class Mixture(_OfParts):
    """A sum of methods with coefficients, as the loss that adds theirs."""

    formula: ClassVar[str] = "c_1 m_1 + c_2 m_2 + ..."
    source: ClassVar[str] = "a sum of losses"

    @property
    def spec(self) -> str:
        """The sum as it is written, a first coefficient of 1 left out."""
        return self._join([part.spec for part in self.parts])

    @property
    def full_spec(self) -> str:
        """The sum with every option of its parts."""
        after = [f"@{part.teacher}" if part.teacher else "" for part in self.parts]
        specs = [part.method.full_spec for part in self.parts]
        return self._join([spec + at for spec, at in zip(specs, after, strict=True)])

    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the sum of the expected directions; a part without one at a node adds nothing."""
        return self._sum(batch, "expected")

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return the sum of the directions for the token that was drawn."""
        return self._sum(batch, "sampled")

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance of the single-sample direction, NaN where two parts vary together."""
        varying = [part for part in self.parts if part.coefficient and _varies(part.method)]
        if len(varying) > 1:
            return np.full(batch.num_nodes, np.nan)
        if not varying:
            return np.zeros(batch.num_nodes)
        (part,) = varying
        return part.coefficient**2 * part.method.squared_deviation(batch)

    def _sum(self, batch: NodeBatch, estimator: Estimator) -> Ascent:
        total_NS = np.zeros(batch.log_p_NS.shape)
        size_N = np.zeros(batch.num_nodes)
        for part in self.parts:
            if not part.coefficient:
                continue
            found_NS = np.nan_to_num(part.method.ascent(batch, estimator))
            total_NS += part.coefficient * found_NS
            size_N += abs(part.coefficient) * np.abs(found_NS).max(axis=1, initial=0.0)
        return Ascent(total_NS, size_N)

    def _join(self, specs: Sequence[str]) -> str:
        pieces = [
            spec if number == 0 and part.coefficient == 1.0 else f"{part.coefficient:.15g}*{spec}"
            for number, (part, spec) in enumerate(zip(self.parts, specs, strict=True))
        ]
        return "+".join(pieces)


def _varies(method: Method) -> bool:
    """Whether a method's single-sample direction is another than the expected one."""
    return type(method).sampled is not Method.sampled


@dataclass(frozen=True)
class BestMixture(_OfParts):
    """The best coefficient for one method beside another, chosen on other questions.

    The coefficient that half of the questions like best is tried on the other half, both ways
    round; see `gradalign.analysis.gram`. It has no direction of its own at a node.
    """

    formula: ClassVar[str] = "m_1 + c m_2, c the best on the other half of the questions"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        """Check that there are two parts, of one teacher or each of a named one."""
        if len(self.parts) != 2:
            raise UsageError(
                f"{BEST} takes two methods, got {len(self.parts)}.",
                f"Write it as {BEST}:FIRST+1*SECOND, or {BEST}.",
            )
        super().__post_init__()

    @property
    def spec(self) -> str:
        """mix:best, and the two methods unless they are the usual ones."""
        first, second = (part.spec for part in self.parts)
        return BEST if (first, second) == (FIRST, SECOND) else f"{BEST}:{first}+1*{second}"

    @property
    def full_spec(self) -> str:
        """With both methods' options."""
        first, second = (part.method.full_spec for part in self.parts)
        return f"{BEST}:{first}+1*{second}"

    def at(self, coefficient: float) -> Mixture:
        """Return the mixture with a coefficient."""
        first, second = self.parts
        return Mixture((first, second._replace(coefficient=coefficient)))

    def expected(self, batch: NodeBatch) -> Ascent:
        """Refuse: the coefficient is chosen from whole questions."""
        raise UsageError(
            f"{self.spec!r} has no direction at a node: its coefficient is chosen from questions.",
            "Score it in a run, or take at(COEFFICIENT).",
        )


def mixture_of(spec: str, get: Callable[[str], Method]) -> Mixture | BestMixture | None:
    """Return the sum that a text spells, or None where it is a single method.

    Args:
        spec: A+NUMBER*B+..., or mix:best, or mix:best:A+1*B.
        get: builds a single method.

    Raises:
        UsageError: a coefficient that is not finite, or a part that is itself a sum.
    """
    if spec == BEST or spec.startswith(f"{BEST}:"):
        found = mixture_of(spec[len(BEST) + 1 :] or f"{FIRST}+1*{SECOND}", get)
        two = found.parts if isinstance(found, Mixture) else ()
        return BestMixture(tuple(part._replace(coefficient=1.0) for part in two))
    pieces = [piece.strip() for piece in _PLUS.split(spec)]
    factors = [_FACTOR.fullmatch(piece) for piece in pieces]
    if len(pieces) == 1 and factors[0] is None and "@" not in spec:
        return None
    parts = []
    for piece, match in zip(pieces, factors, strict=True):
        coefficient, rest = (float(match[1]), match[2]) if match else (1.0, piece)
        if not math.isfinite(coefficient):
            raise UsageError(f"the coefficient of {rest!r} in {spec!r} must be finite.")
        method, _, teacher = rest.partition("@")
        parts.append(Part(coefficient, get(method.strip()), teacher.strip()))
    return Mixture(tuple(parts))
