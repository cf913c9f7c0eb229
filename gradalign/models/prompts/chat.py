"""What a chat template makes of messages, held against what they say."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from gradalign.errors import UsageError
from gradalign.questions import Message

End: TypeAlias = Literal["asked", "open", "closed"]
"""How a rendering ends: with the beginning of an assistant's turn ("asked"), inside the last
turn so that it can be gone on with ("open"), or behind a finished last turn ("closed")."""

Apply: TypeAlias = Callable[[list[dict[str, Any]], End], str]
"""A chat template as a function; it raises UsageError where the template refuses messages."""

_MARK = "qvzk{}wxjq"

# Templates write only what an earlier assistant's turn says after its thinking.
_THOUGHT = re.compile(r"</(?:\w+:)?think(?:ing)?>|\[/THINK\]|<\|END_THINKING\|>|</reasoning>")

# Words to a template, not to the model: some take them out of what they write.
_SWITCH = re.compile(r"/(?:no_)?think\b")

_PRINTED_PART = re.compile(r"""['"]type['"]\s*:\s*['"]text['"]""")

# The ways in which templates write a text: as it is, and as JSON, HTML or Python would.
_FORMS: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    html.escape,
    lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    lambda text: repr(text)[1:-1],
)

_ADDRESS = re.compile(r"<[\w. ']+ at 0x[0-9a-fA-F]{5,}>")


_LOTS = ("random", "lipsum")
"""The only names by which a template can draw lots."""


def chat_text(messages: Sequence[Message], apply: Apply, name: str) -> str:
    """Render messages up to where the response begins, and make sure that all they say is there.

    A last turn of the assistant's is left open. Where a template reads contents as lists of
    parts only, they are given to it as such.

    Args:
        messages: the prompt.
        apply: the chat template.
        name: whose template it is, for messages of errors.

    Raises:
        UsageError: the template refuses the messages, leaves out what one of them says, or
            writes something that is another one at each call.
    """
    end: End = "open" if messages[-1].role == "assistant" else "asked"
    refusal: UsageError | None = None
    missing: list[int] = []
    for in_parts in _spellings(messages):
        try:
            text = apply(_plain(messages, in_parts), end)
            absent = _absent(messages, text, in_parts, apply, end)
        except UsageError as error:
            refusal = refusal or error
            continue
        if not absent:
            _check_addresses(messages, text, name)
            return text
        missing = missing or absent
    if refusal is not None and not missing:
        raise refusal
    first = messages[missing[0]]
    raise UsageError(
        f"the chat template of {name} leaves out what message {missing[0] + 1} ({first.role}) "
        "says.",
        "Use another --chat-template, or say it in a message that the template writes.",
    )


def ignores_generation_prompt(messages: Sequence[Message], apply: Apply) -> bool:
    """Say whether the response would begin in a turn that is not the assistant's.

    Some templates need no words to open the assistant's turn (`[INST] ... [/INST]`): what an
    assistant says follows there right behind the turn before.
    """
    if messages[-1].role == "assistant":
        return False
    text = chat_text(messages, apply, "")
    for parts in (frozenset[int](), frozenset(range(len(messages) + 1))):
        try:
            if apply(_plain(messages, parts), "closed") != text:
                continue
            answered = [*messages, Message("assistant", _MARK.format("a"))]
            whole = apply(_plain(answered, parts), "closed")
        except UsageError:  # it wants contents of the other kind
            continue
        before, found, _ = whole.partition(_MARK.format("a"))
        return not found or before.rstrip() != text.rstrip()
    return False


def check_repeatable(messages: Sequence[Message], apply: Apply, template: str, name: str) -> None:
    """Refuse a template that draws lots: it says something else at each call.

    Raises:
        UsageError: two renderings of the same messages differ.
    """
    if not any(word in template for word in _LOTS):
        return
    # As often that even one of two words is drawn alike each time once in 10^9 times only.
    if len({chat_text(messages, apply, name) for _ in range(31)}) > 1:
        raise UsageError(
            f"the chat template of {name} says something else at each call.",
            f"Take {' and '.join(word for word in _LOTS if word in template)} out of it.",
        )


def fixed_clock(moment: str) -> Callable[[str], str]:
    """Return `strftime_now` as templates know it, of one moment.

    Args:
        moment: in ISO format.
    """
    time = datetime.fromisoformat(moment)
    return lambda form: time.strftime(form)


def _spellings(messages: Sequence[Message]) -> list[frozenset[int]]:
    """Return which messages to write as lists of parts, in the order to try."""
    every = frozenset(range(len(messages)))
    users = frozenset(i for i in every if messages[i].role != "system")
    return list(dict.fromkeys([frozenset[int](), every, users]))


def _plain(messages: Sequence[Message], in_parts: frozenset[int]) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "content": (
                [{"type": "text", "text": message.content}] if i in in_parts else message.content
            ),
        }
        for i, message in enumerate(messages)
    ]


def _absent(
    messages: Sequence[Message], text: str, in_parts: frozenset[int], apply: Apply, end: End
) -> list[int]:
    """Return the places of messages whose words are not in a rendering.

    Twice: by what they say, because a template may leave out what it does not like; and by
    words that stand nowhere else, because a short content may be there by chance.
    """
    squashed = _squash(text)
    absent = {
        i
        for i, message in enumerate(messages)
        if not _says(squashed, message.role, message.content)
    }
    marked = [
        Message(message.role, _MARK.format(i) if message.content.strip() else message.content)
        for i, message in enumerate(messages)
    ]
    try:
        other = apply(_plain(marked, in_parts), end)
    except UsageError:  # it wants certain words: what they say has to do
        return sorted(absent)
    if in_parts and _PRINTED_PART.search(other):
        return list(in_parts)
    absent |= {
        i
        for i, message in enumerate(messages)
        if message.content.strip() and _MARK.format(i) not in other
    }
    return sorted(absent)


def _says(squashed: str, role: str, content: str) -> bool:
    """Say whether a rendering without blanks has a content, escaped in whatever way."""
    if role == "assistant":
        content = _THOUGHT.split(content)[-1]
    content = content.strip()
    return any(_squash(form(content)) in squashed for form in _FORMS)


def _squash(text: str) -> str:
    return "".join(_SWITCH.sub("", text).split())


def _check_addresses(messages: Sequence[Message], text: str, name: str) -> None:
    """Refuse a rendering that prints where an object lies in memory: it will lie elsewhere."""
    found = _ADDRESS.search(text)
    if found and not any(found.group() in message.content for message in messages):
        raise UsageError(
            f"the chat template of {name} writes {found.group()}, which is another text at each "
            "run.",
            "Repair the template: a filter or function is printed where its result is meant.",
        )
