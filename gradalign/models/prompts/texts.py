"""Token ids back to text as it was written: nothing left out, no blank lost or added."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

_BEFORE = "a"
"""What stands before a response while it is decoded."""


def whole_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode a text from its beginning, such as a prompt; special tokens are shown."""
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def texts_after(
    tokenizer: Any, sequences: Sequence[Sequence[int]], stops: Collection[int] = ()
) -> list[str]:
    """Decode token ids that go on with another text, such as responses.

    Decoders of SentencePiece's kind drop the blank that a text begins with. A response is no
    beginning, so it is decoded behind a token whose text is then taken off.

    Args:
        tokenizer: a transformers tokenizer.
        sequences: token ids; each is one text and is decoded as a whole, because a character
            may take several tokens.
        stops: ids of which one at the very end is left out. Every other special token is text.
    """
    lead = list(tokenizer(_BEFORE, add_special_tokens=False)["input_ids"])
    before = whole_text(tokenizer, lead)
    found = []
    for sequence in sequences:
        ids = [int(token) for token in sequence]
        if ids and ids[-1] in stops:
            ids.pop()
        text = whole_text(tokenizer, [*lead, *ids]) if ids else before
        found.append(text[len(before) :] if text.startswith(before) else whole_text(tokenizer, ids))
    return found
