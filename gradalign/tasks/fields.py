"""Fields of a row or a message that would change the prompt, and that nothing here can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradalign.errors import TaskError
from gradalign.questions import Message

# What trainers, engines and templates take beside the messages: a prompt without it is another.
_SHOWN_ELSEWHERE = (
    "tools",
    "functions",
    "tool_choice",
    "images",
    "image",
    "audios",
    "audio",
    "videos",
    "video",
    "chat_template",
    "chat_template_kwargs",
)
_SHOWN_WITH_MESSAGES = ("documents", "system", "system_prompt")

_HINT = "gradalign shows a model texts only: write it into the text, or take the field out."


def refuse_lost_fields(row: Mapping[str, Any], named: str) -> None:
    """Refuse a row with fields that other programs put into the prompt, unless they are empty.

    Any other field is the row's own and is kept as metadata.

    Args:
        row: as it was read.
        named: the row, for the message.

    Raises:
        TaskError: all of them are named.
    """
    messages = row.get("messages")
    lost = [name for name in _SHOWN_ELSEWHERE if _is_there(row.get(name))]
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        lost += [
            name
            for name in _SHOWN_WITH_MESSAGES
            if _is_there(row.get(name)) and not _is_said(row[name], messages)
        ]
    lost += _of_messages(messages)
    if lost:
        raise TaskError(
            f"{named}: {_list(lost)} would be left out of the prompt.",
            _HINT,
        )


def message_of(item: object, what: str) -> Message:
    """Read one message: a role, and a text as such or as the one part of a list.

    Raises:
        TaskError: something else is in it.
    """
    if isinstance(item, Mapping):
        lost = _of_messages([item])
        if lost:
            raise TaskError(f"{what}: {_list(lost)} would be left out of the prompt.", _HINT)
        role, content = item.get("role"), _text_of_parts(item.get("content"), what)
        if isinstance(role, str) and isinstance(content, str):
            return Message(role, content)
    raise TaskError(
        f"{what}: a message needs the texts `role` and `content`.",
        'Write {"role": "user", "content": "..."}.',
    )


def _of_messages(messages: object) -> list[str]:
    """Return the fields of messages that no Message has, each once."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        return []
    return list(
        dict.fromkeys(
            str(name)
            for item in messages
            if isinstance(item, Mapping)
            for name, value in item.items()
            if name not in ("role", "content") and _is_there(value)
        )
    )


def _text_of_parts(content: object, what: str) -> object:
    if isinstance(content, str) or not isinstance(content, Sequence):
        return content
    kinds = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and kind in ("text", None):
            more = [key for key in part if key not in ("type", "text") and _is_there(part[key])]
            kind = str(more[0]) if more else "text"
        kinds.append(str(kind))
    other = sorted(set(kinds) - {"text"})
    if other:
        raise TaskError(
            f"{what}: a message has a part of the kind {other[0]!r}, which would be left out of "
            "the prompt.",
            _HINT,
        )
    if len(content) != 1:
        raise TaskError(
            f"{what}: a message has {len(content)} parts of text, which templates join in "
            "different ways.",
            "Write its content as one text.",
        )
    return content[0].get("text")


def _is_said(value: object, messages: Sequence[Any]) -> bool:
    return isinstance(value, str) and any(
        isinstance(item, Mapping) and value.strip() in str(item.get("content")) for item in messages
    )


def _is_there(value: object) -> bool:
    """Say whether a field has a value; Parquet gives every row all names of a structure."""
    if isinstance(value, Mapping):
        return any(_is_there(item) for item in value.values())
    if isinstance(value, (str, bytes, Sequence)):
        return len(value) > 0
    return value is not None


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
