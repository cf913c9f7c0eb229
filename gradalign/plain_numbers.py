"""One spelling for numbers that a file holds as numbers.

How a number was spelt is chance: JSON writers turn 0.00001 into 1e-05, and a column of whole
numbers with a missing value is stored as floats. Verifiers compare text, so a number becomes text
in one way: in plain decimal digits, without an exponent, a superfluous zero or a point behind a
whole number (46, 0.00001, 10000000000000000000000). Texts stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

MAX_DIGITS = 100_000
"""Longest number that is written out: an exponent is soon typed, and its zeros fill the memory."""

MAX_PARSED_DIGITS = 640
"""Longest whole number of a JSON file that becomes an int: Python may be set to refuse longer ones
when they are turned to text again, but no shorter ones."""

_SURE_DIGITS = 15
"""A decimal number of so many digits survives being stored as a 64-bit float."""

_EXACT_WHOLE = 2**53
"""Below it every whole number is a 64-bit float of its own."""


class WrittenFloat(float):
    """A float that remembers its spelling in the file, which may have more digits.

    Attributes:
        written: the number as the file has it.
    """

    written: str

    def __new__(cls, written: str) -> WrittenFloat:
        """Read a number."""
        self = super().__new__(cls, written)
        self.written = written
        return self


def parse_int(written: str) -> int | str:
    """Read a whole number of a JSON file; one too long for an int stays the text that it is."""
    return int(written) if len(written) <= MAX_PARSED_DIGITS else written


def without_long_ints(value: Any) -> Any:
    """Return plain data in which whole numbers that JSON cannot be sure to carry are texts."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value.bit_length() < 3 * MAX_PARSED_DIGITS else _plain(Decimal(value))
    if isinstance(value, Mapping):
        return {key: without_long_ints(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_long_ints(item) for item in value]
    return value


def plain_number(value: object) -> str | None:
    """Spell a number in plain decimal digits; None if it is not a number.

    Takes Python's numbers, decimals of Arrow, and the scalars of numpy. A float of numpy is
    spelt with the fewest digits that tell it from others of its type. True and false are no
    numbers.

    Raises:
        ValueError: it is not finite, too long to write out, or a whole float whose last digits
            are lost. The message goes on from "the answer is ...".
    """
    kind = type(value).__module__.partition(".")[0]
    if kind == "numpy" and not isinstance(value, str):
        value = _of_numpy(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return _plain(Decimal(value))
    if isinstance(value, WrittenFloat):
        return _plain(Decimal(value.written))
    if isinstance(value, float):
        return _of_float(value)
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, Fraction):
        return (
            f"{value.numerator}/{value.denominator}"
            if value.denominator > 1
            else _plain(Decimal(value.numerator))
        )
    return None


def _of_numpy(value: object) -> object:
    import numpy as np

    if isinstance(value, np.floating) and value.dtype != np.float64:
        if not np.isfinite(value):
            return float(value)
        # Widened to 64 bits, 0.1 of 32 bits would become 0.10000000149011612.
        return Decimal(np.format_float_positional(value, unique=True, trim="-"))
    return value.item() if isinstance(value, np.generic) else value


def _of_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value}, which is no number")
    shortest = Decimal(repr(float(value)))
    digits = len(shortest.normalize(Context(prec=20)).as_tuple().digits)
    if abs(value) >= _EXACT_WHOLE and digits > _SURE_DIGITS:
        raise ValueError(
            f"{value!r}, a whole number stored as a float, which cannot hold all of its digits"
        )
    return _plain(shortest)


def _plain(number: Decimal) -> str:
    if not number.is_finite():
        raise ValueError(f"{number}, which is no number")
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    length = max(len(digits) + max(exponent, 0), -exponent)
    if not number:
        return "0"
    if length > MAX_DIGITS:
        raise ValueError(f"a number of {length:,} digits, more than {MAX_DIGITS:,}")
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
