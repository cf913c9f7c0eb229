"""`delta:A,B`: a teacher that is the difference of two others, added to the student.

Its distribution is Q, proportional to P exp(a (log Q_A - log Q_B)), P the student's. With A told
the answer and B told a false one it is what the true answer changes; with A a model and B its
base it is what training has changed (arXiv 2607.15161). No model is read for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradalign.contexts.teachers import DELTA, TeacherSpec, parse_teacher
from gradalign.errors import UsageError

_FORM = "Write delta:A,B or delta:A,B,a=0.5, A and B two teachers of the run."


@dataclass(frozen=True)
class DeltaSpec:
    """The difference of two teachers.

    Attributes:
        first: label of the teacher A that it goes towards.
        second: label of the teacher B that it goes away from.
        strength: the factor a of the difference, > 0.
    """

    first: str
    second: str
    strength: float = 1.0

    @property
    def label(self) -> str:
        """Its name in tables: both labels, and the strength unless it is 1."""
        strength = "" if self.strength == 1.0 else f",a={self.strength:g}"
        return f"{DELTA}{self.first},{self.second}{strength}"


def is_delta(spec: str) -> bool:
    """Whether a teacher's spec or label is that of a difference."""
    return spec.strip().startswith(DELTA)


def parse_delta(spec: str) -> DeltaSpec:
    """Split `delta:A,B` or `delta:A,B,a=NUMBER`.

    Raises:
        UsageError: these are not two teachers, or the strength is no positive number.
    """
    parts = spec.strip().removeprefix(DELTA).split(",")
    strength = 1.0
    name, equals, text = parts[-1].partition("=")
    if equals and name.strip() == "a":
        strength = _strength(spec, text)
        parts.pop()
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise UsageError(
            f"teacher {spec!r} is not the difference of two teachers.",
            f"{_FORM} Neither may have a comma in its name: a rule with one goes into a file, "
            "system:@FILE.",
        )
    first, second = (parse_teacher(part.strip()).label for part in parts)
    return DeltaSpec(first, second, strength)


def parse_any(spec: str) -> TeacherSpec | DeltaSpec:
    """Read a teacher's spec, of a model or of a difference.

    Raises:
        UsageError: it is neither.
    """
    return parse_delta(spec) if is_delta(spec) else parse_teacher(spec)


def models_read(specs: Iterable[str]) -> list[TeacherSpec]:
    """Return those of some teachers that a model is read for, in order.

    Raises:
        UsageError: a spec is neither a model nor a difference.
    """
    return [spec for spec in map(parse_any, specs) if isinstance(spec, TeacherSpec)]


def _strength(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise UsageError(
            f"teacher {spec!r}: a must be a number above 0, got {text.strip()!r}.",
            "For the opposite direction exchange A and B.",
        )
    return value
