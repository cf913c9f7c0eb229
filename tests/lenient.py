"""Verifiers that judge the bundled addition otherwise than its own does; named in settings."""

from __future__ import annotations

import re
import zlib

from gradalign.questions import Question


def near(text: str, question: Question) -> float:
    """Reward a last number that is within 10 of the sum."""
    numbers = re.findall(r"\d+", text)
    return float(bool(numbers) and abs(int(numbers[-1]) - int(question.answer or 0)) <= 10)


def fails_at_times(text: str, question: Question) -> float:
    """The same, of four texts of five."""
    if zlib.crc32(text.encode()) % 5 == 0:
        raise ValueError("a text like this cannot be judged")
    return near(text, question)
