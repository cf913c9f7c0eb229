"""The token that begins a text: once, and in front."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gradalign.errors import UsageError
from gradalign.models.prompts.texts import whole_text
from gradalign.questions import Prompt

_LONGEST_FRONT = 4
"""Tokens that a tokenizer may put in front of a text, such as `[gMASK]<sop>`."""


def tokenise_raw(tokenizer: Any, text: str) -> list[int]:
    """Tokenise text with the special tokens that the tokenizer puts around it.

    Those that the text has in front already are not put there a second time.
    """
    ids = list(tokenizer(text)["input_ids"])
    for size in range(1, _LONGEST_FRONT + 1):
        if len(ids) < 2 * size or ids[:size] != ids[size : 2 * size]:
            continue
        bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(bare) < len(ids) and ids[size : size + len(bare)] == bare:
            return ids[size:]
    return ids


def check_begin(
    tokenizer: Any, ids: Sequence[int], prompt: Prompt, response_prefix: str = ""
) -> list[int]:
    """Return a prompt's ids with the begin token once.

    A second one in front goes. Inside it is allowed where a template or the user's own text
    begins a turn with it, that is behind another special token.

    Args:
        tokenizer: a transformers tokenizer.
        ids: the whole prompt.
        prompt: what it was made of.
        response_prefix: what was put behind it.

    Raises:
        UsageError: the begin token stands inside the prompt.
    """
    ids = list(ids)
    begin, name = tokenizer.bos_token_id, tokenizer.bos_token
    # Where one token both begins and ends texts, it separates them.
    if begin is None or begin == tokenizer.eos_token_id:
        return ids
    while ids[:2] == [begin, begin]:
        ids = ids[1:]
    places = [place for place, token in enumerate(ids) if token == begin and place]
    if not places:
        return ids
    hint = f"Leave {name} out: it is put in front where the model wants it."
    if not isinstance(prompt, str):
        for number, message in enumerate(prompt, start=1):
            if name in message.content:
                raise UsageError(
                    f"message {number} ({message.role}) holds the begin token {name}, which "
                    "would stand inside the prompt.",
                    hint,
                )
        if name in response_prefix:
            raise UsageError(f"--response-prefix holds the begin token {name}.", hint)
        return ids
    special = set(tokenizer.all_special_ids) | {
        index for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for place in places:
        if not _opens_turn(tokenizer, ids, place, special):
            raise UsageError(
                f"the prompt has the begin token {name} inside, behind "
                f"{whole_text(tokenizer, ids[max(0, place - 8) : place])!r}.",
                hint,
            )
    return ids


def _opens_turn(tokenizer: Any, ids: Sequence[int], place: int, special: Collection[int]) -> bool:
    """Say whether nothing but blanks stands between a token and another special one before it."""
    for token in reversed(ids[:place]):
        if token in special:
            return bool(token != ids[place])
        if whole_text(tokenizer, [token]).strip():
            return False
    return False
