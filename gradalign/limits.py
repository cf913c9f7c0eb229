"""What a setting must be like beyond its type: said at once, not when it is first used.

Each function returns the value or raises ValueError with the reason; `gradalign.config` names the
flag.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field

MOST = 2**31 - 1
"""Counts and token ids are 32-bit numbers in the tables."""

PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""numpy takes no negative seed, and a table holds no larger one."""

Temperature = Annotated[float, Field(ge=0.01, le=100)]
"""vLLM samples below 0.01 as at 0.01; above 100 every token is as good as any other."""

Seconds = Annotated[float, Field(gt=0, le=1e6)]
"""The operating system's timers end somewhere above."""

Resamples = Annotated[int, Field(ge=100, le=1_000_000)]
TokenId = Annotated[int, Field(ge=0, le=MOST)]

_DEVICE = re.compile(r"[a-z]+(:\d{1,4})?")


def plain_text(value: str) -> str:
    """Refuse what no file name, table or JSON file can hold."""
    if "\0" in value:
        raise ValueError("a NUL character cannot be used")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it is not valid Unicode") from None
    return value


def named(value: str) -> str:
    """Refuse a name without any character that is seen."""
    if not value.strip():
        raise ValueError("give a name, not an empty text")
    return value


def device(value: str) -> str:
    """Refuse what has not the form of a device."""
    if not _DEVICE.fullmatch(value):
        raise ValueError("write auto, cpu, cuda, cuda:1, mps, ...")
    return value


def distinct(values: list[str]) -> list[str]:
    """Refuse a value that is given twice, or empty."""
    for value in values:
        named(value)
    if len(set(values)) != len(values):
        raise ValueError(f"each only once, got {values}")
    return values


def as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that run.json cannot keep."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"only JSON values can be kept: {error}") from None
    return value
