"""A vocabulary as byte strings, in which tokens are found by what they begin with."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Vocabulary:
    """The bytes of every token.

    Attributes:
        pieces: the bytes of each id; None for a token that stands for no text, such as an end.
        order: the ids of tokens with text, sorted by their bytes.
        silent: the ids of tokens without.
        longest: bytes of the longest token.
    """

    def __init__(self, pieces: Sequence[bytes | None]) -> None:
        self.pieces = tuple(pieces)
        texts = [(piece, token) for token, piece in enumerate(self.pieces) if piece]
        texts.sort()
        self.order: Ints = np.array([token for _, token in texts], dtype=np.int64)
        self.silent: Ints = np.array(
            [token for token, piece in enumerate(self.pieces) if not piece], dtype=np.int64
        )
        self.longest = max((len(piece) for piece, _ in texts), default=0)
        self._sorted = [piece for piece, _ in texts]

    def beginning_with(self, text: bytes) -> slice:
        """Return where in `order` the tokens are that begin with a text, itself included."""
        begin = bisect_left(self._sorted, text)
        after = _after(text)
        return slice(
            begin, len(self._sorted) if after is None else bisect_left(self._sorted, after)
        )

    def within(self, text: bytes) -> list[int]:
        """Return the tokens that a text begins with and goes on after, the shortest first."""
        found: list[int] = []
        for length in range(1, min(len(text), self.longest + 1)):
            piece = text[:length]
            place = bisect_left(self._sorted, piece)
            while place < len(self._sorted) and self._sorted[place] == piece:
                found.append(int(self.order[place]))
                place += 1
        return found

    def text(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of some tokens; those without text add none."""
        return b"".join(self.pieces[token] or b"" for token in tokens)


def _after(text: bytes) -> bytes | None:
    """Return the least byte string above all that begin with a text; None if there is none."""
    stem = text.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
