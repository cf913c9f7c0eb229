"""One verification, whatever the verifier does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradalign.questions import Question
from gradalign.verifiers.base import Scored, Verifier


@dataclass(frozen=True)
class Verdict:
    """What became of one verification.

    Attributes:
        reward: in [0, 1]; None where the verification failed, which says nothing of the response.
        error_kind: None, or why there is no reward: `timeout`, `raised`, `memory`, `crashed`,
            `not_a_number`, `out_of_range`.
        detail: what was raised or returned, shortened.
        answer, read_by: see `gradalign.verifiers.base.Scored`; None where the verifier is silent.
    """

    reward: float | None
    error_kind: str | None = None
    detail: str = ""
    answer: str | None = None
    read_by: str | None = None


def judge(verifier: Verifier, text: str, question: Question) -> Verdict:
    """Call a verifier and turn whatever it raises or returns into a verdict."""
    try:
        value: object = verifier(text, question)
    except MemoryError:
        return Verdict(None, "memory", "MemoryError")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's verifier may raise anything
        return Verdict(None, "raised", _shorten(f"{type(error).__name__}: {_said(str, error)}"))
    try:
        if isinstance(value, (str, bytes, bytearray)):
            raise TypeError
        reward = float(value)  # type: ignore[arg-type]  # arrays and numbers of any library
    except Exception:
        shown = f"{type(value).__name__} {_said(repr, value)}"
        return Verdict(None, "not_a_number", _shorten(shown))
    if math.isnan(reward):
        return Verdict(None, "not_a_number", "nan")
    if not 0.0 <= reward <= 1.0:
        return Verdict(None, "out_of_range", _shorten(_said(repr, value)))
    if isinstance(value, Scored):
        answer = None if value.answer is None else _shorten(str(value.answer))
        return Verdict(reward, answer=answer, read_by=str(value.read_by))
    return Verdict(reward)


def _said(how: Callable[[object], str], value: object) -> str:
    """Turn an object of the user's own into text, which may fail as well."""
    try:
        return how(value)
    except Exception:
        return "(cannot be shown)"


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
