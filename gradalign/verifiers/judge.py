"""One verification, whatever the verifier does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradalign.tasks.base import Question
from gradalign.verifiers.base import Verifier


@dataclass(frozen=True)
class Verdict:
    """What became of one verification.

    Attributes:
        reward: in [0, 1]; 0 where the verification failed.
        error_kind: None, or why there is no reward: `timeout`, `raised`, `memory`, `crashed`,
            `not_a_number`, `out_of_range`.
        detail: what was raised or returned, shortened.
    """

    reward: float
    error_kind: str | None = None
    detail: str = ""


def judge(verifier: Verifier, text: str, question: Question) -> Verdict:
    """Call a verifier and turn whatever it raises or returns into a verdict."""
    try:
        value: object = verifier(text, question)
    except MemoryError:
        return Verdict(0.0, "memory", "MemoryError")
    except (Exception, SystemExit) as error:  # a user's verifier may raise anything
        return Verdict(0.0, "raised", _shorten(f"{type(error).__name__}: {error}"))
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        reward = float(value)  # type: ignore[arg-type]  # arrays and numbers of any library
    except Exception:
        return Verdict(0.0, "not_a_number", _shorten(f"{type(value).__name__} {value!r}"))
    if math.isnan(reward):
        return Verdict(0.0, "not_a_number", "nan")
    if not 0.0 <= reward <= 1.0:
        return Verdict(0.0, "out_of_range", _shorten(repr(value)))
    return Verdict(reward)


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
