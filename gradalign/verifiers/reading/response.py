"""What of a response is said to the reader: the part after the thinking."""

from __future__ import annotations

import re

# Opening and closing marks of a thinking part, as reasoning models and their templates write them.
_OPENING = re.compile(
    r"<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷"
    r"|<\|begin_of_thought\|>|<\|channel\|>analysis",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷"
    r"|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)


def spoken(text: str) -> str | None:
    """Return what follows the last closing mark of a thinking part; all of it without marks.

    A template may have opened the thinking in the prompt, so that a response has the closing
    mark only. None if thinking was opened and never closed: the response was cut off before it
    said anything.
    """
    end = 0
    for match in _CLOSING.finditer(text):
        end = match.end()
    if _OPENING.search(text, end):
        return None
    return text[end:]
