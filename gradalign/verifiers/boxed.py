r"""Finding the last \boxed{...} of a response."""

from __future__ import annotations

import re

_OPENING = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{")


def last_boxed(text: str) -> str | None:
    """Return what the last box holds, braces balanced.

    None if there is no box, or if the last one is never closed: a response that was cut off
    inside its box has not given an answer.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    opening = _OPENING.match(text, start)
    if opening is None:
        return None
    depth = 1
    position = opening.end()
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2  # \{ and \} are printed braces
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[opening.end() : position]
        position += 1
    return None
