"""Times and names as people say them."""

from __future__ import annotations

from collections.abc import Iterable

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = 365 * DAY


def spoken(seconds: float) -> str:
    """Return a time in words that people use: 45 s, 8 min, 2 h 10 min, 19 days, 3 years."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 1.5 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 10 * HOUR:
        hours, minutes = divmod(round(seconds / MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.0f} h"
    return f"{seconds / DAY:,.0f} days" if seconds < 2 * YEAR else f"{seconds / YEAR:,.0f} years"


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Return the shortest end of each model's path that no other of them shares.

    Args:
        models: hub ids, folders, or demo:NAME.
    """
    whole = list(dict.fromkeys(models))
    parts = {name: [part for part in name.split("/") if part] or [name] for name in whole}
    short = {}
    for name in whole:
        others = [parts[other] for other in whole if other != name]
        own = parts[name]
        length = next(
            (n for n in range(1, len(own)) if all(part[-n:] != own[-n:] for part in others)),
            0,
        )
        short[name] = "/".join(own[-length:]) if length else name
    return short


def cut_middle(text: str, width: int) -> str:
    """Return a text of at most `width` characters: start and end say the most of a name."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[:width]
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"
