r"""Finding the last \boxed{...} of a response."""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]{0,8}\n?[ \t]{0,8}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are printed braces
_GROUP = re.compile(r"\{([^{}]*)\}")
_ARGUMENT = r"[ \t]{0,8}(?:[0-9]|\{[^{}]{0,200}\})"
_BARE = re.compile(
    rf"\\[dt]?frac{_ARGUMENT}{_ARGUMENT}"
    r"|[-+]?[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?(?![0-9A-Za-z]|[.,/^_\\][0-9A-Za-z{])"
    r"|[A-Za-z](?![0-9A-Za-z^_'])"
    r"|\\(?:pi|infty|alpha|beta|theta|emptyset|varnothing)(?![A-Za-z])"
)


@dataclass(frozen=True)
class Box:
    """A box and where it stands.

    Attributes:
        start, end: the characters that it takes up, its command included.
        content: what it holds; None if it is never closed, or holds nothing that can be told.
    """

    start: int
    end: int
    content: str | None


def boxes(text: str) -> list[Box]:
    r"""Return the outermost \boxed and \fbox of a text, in order; time is linear in its length.

    Braces are balanced, but for \{ and \}. A box without a brace holds the one thing that
    follows: a number, a letter, a fraction (\boxed 7). A box in a box is shown as a group in
    the outer one's content. A box that is never closed does not take up what follows it.
    """
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            opened.append(match.start())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    found: list[Box] = []
    end = 0
    for match in _COMMAND.finditer(text):
        start, position = match.span()
        if start < end:
            continue
        bare = _BARE.match(text, position)
        if position in closing:
            end = closing[position] + 1
            content = text[position + 1 : end - 1]
            if _COMMAND.search(content):
                content = _COMMAND.sub("", content).strip()
                whole = _GROUP.fullmatch(content)
                content = whole.group(1) if whole else content
            found.append(Box(start, end, content))
        elif bare is not None:
            end = bare.end()
            found.append(Box(start, end, bare.group()))
        else:
            found.append(Box(start, position, None))
    return found


def last_boxed(text: str) -> str | None:
    """Return what the last box holds, braces balanced.

    None if there is no box, or if the last one is never closed: a response that was cut off
    inside its box has not given an answer.
    """
    found = boxes(text)
    return found[-1].content if found else None
