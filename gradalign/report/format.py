"""Numbers and model output as text that can be shown: in a terminal, in XML, in a page."""

from __future__ import annotations

import unicodedata

# Marks that reorder or hide what follows them; categories Cc (control) and Cs (lone surrogates)
# are found by unicodedata.
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\ufeff\u061c\u200e\u200f") | {
    chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)
}


def visible(text: str, *, newlines: bool = False) -> str:
    """Replace control, direction and zero-width characters by their code points in brackets.

    A terminal would obey an escape sequence, a browser a right-to-left override, XML rejects NUL:
    none of them may change how the rest is shown.

    Args:
        text: anything a model may have written.
        newlines: keep line ends and tabs as they are, instead of showing them as marks.
    """
    return "".join(_shown(character, newlines) for character in text)


def _shown(character: str, newlines: bool) -> str:
    if character in "\n\t":
        return character if newlines else {"\n": "⏎", "\t": "⇥"}[character]
    if character in _INVISIBLE or unicodedata.category(character) in {"Cc", "Cs", "Co", "Cn"}:
        return f"[U+{ord(character):04X}]"
    return character


def number(value: float | None, digits: int = 3) -> str:
    """Format a signed number; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:+.{digits}f}"


def interval(value: float, low: float, high: float) -> str:
    """Format an estimate with its interval, if it has one; a dash for an end that is not known."""
    if low != low and high != high:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def p_value(value: float | None, missing: str = "") -> str:
    """Format a p-value; `missing` where there is none."""
    return missing if value is None or value != value else f"{value:.2g}"


def share(value: float | None) -> str:
    """Format a share as a percentage; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.0%}"


def size(num_bytes: float) -> str:
    """Return a size in the unit that suits it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"


def rough_duration(seconds: float) -> str:
    """Return a time as a sentence has it: about how long, in words."""
    if seconds < 90:
        return f"{seconds:,.0f} seconds" if seconds >= 1.5 else "1 second"
    return f"{seconds / 60:,.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
