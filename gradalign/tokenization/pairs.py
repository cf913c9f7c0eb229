"""Byte-pair encoding over bytes, and what a text's beginning says of its first token.

A tokenizer is local when a sequence of tokens is what it makes of their bytes if and only if that
holds for every two neighbours. Byte-pair encoding is (Vieira et al., "Language Models over
Canonical Byte-Pair Encodings", 2025, arXiv 2506.07956). Here texts that begin alike are told apart
by it: whether some of them have another first token.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradalign.tokenization.vocabulary import Vocabulary

Split = Callable[[bytes], list[bytes]]
"""Cuts a text into the parts that are encoded by themselves."""

REACH = 6
"""Tokens before the end of a text within which its last certain boundary is looked for."""

LOOKED_AT = 256
"""Tokens of one beginning that are tried as a cover of a text's end; of more, one may fit."""


@dataclass(frozen=True)
class First:
    """The token that a tokenizer puts behind another, as far as the text behind that is known.

    Attributes:
        token: what comes next if the text ends here; -1 if the token before is then another.
        sure: whether every text that goes on from here has it too.
        kept: whether every text that goes on from here keeps the token before, as `token` says.
    """

    token: int
    sure: bool
    kept: bool


class BytePairs(Vocabulary):
    """A tokenizer by byte-pair encoding.

    Args:
        pieces: as of `Vocabulary`.
        merges: pairs of tokens that become one, with that one; the first has precedence.
        symbols: cuts a text into the tokens that merging starts from.
        split: cuts a text into the parts that are encoded by themselves; None for no cut.
        whole: whether a part that is a token is that token, whatever merges say.
    """

    def __init__(
        self,
        pieces: Sequence[bytes | None],
        merges: Mapping[tuple[int, int], tuple[int, int]],
        symbols: Callable[[bytes], list[int]],
        split: Split | None = None,
        *,
        whole: bool = False,
    ) -> None:
        super().__init__(pieces)
        self._merges = merges
        self._symbols = symbols
        self._split = split or (lambda text: [text])
        self._by_text = {self.pieces[token]: int(token) for token in self.order[::-1]}
        self._whole = whole
        self._parts: dict[bytes, list[int]] = {}
        self._stable: dict[tuple[int, int], bool] = {}
        self._covered: dict[tuple[int | None, bytes], bool] = {}
        self._firsts: dict[tuple[int | None, bytes], First] = {}

    def encode(self, text: bytes) -> list[int]:
        """Return the tokens of a text."""
        return [token for part in self._split(text) for token in self._part(part)]

    def _part(self, part: bytes) -> list[int]:
        found = self._parts.get(part)
        if found is None:
            if self._whole and part in self._by_text:
                found = [self._by_text[part]]
            else:
                found = merged(self._symbols(part), self._merges)
            if len(part) <= 64:
                self._parts[part] = found
        return found

    def stable(self, first: int | None, second: int) -> bool:
        """Whether two neighbours are what the tokenizer makes of their bytes."""
        pair = [second] if first is None or not self.pieces[first] else [first, second]
        key = (pair[0], pair[-1]) if len(pair) > 1 else (-1, second)
        if key not in self._stable:
            self._stable[key] = self.encode(self.text(pair)) == pair
        return self._stable[key]

    def covers(
        self, before: int | None, text: bytes, but: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Yield tokens that texts beginning with a text may have first, and how far each reaches.

        Where more than `LOOKED_AT` tokens begin with the text, the rest counts as one that may.

        Args:
            before: the token in front of it, None for none.
            text: how it begins, at least a byte.
            but: a token that is not asked for.
        """
        for token in self.within(text):
            end = self._length(token)
            if token != but and self.stable(before, token) and self._covers(token, text[end:]):
                yield token, end
        longer = self.order[self.beginning_with(text)]
        for token in longer[:LOOKED_AT].tolist():
            if token != but and self.stable(before, token):
                yield token, self._length(token)
        if len(longer) > LOOKED_AT:
            yield int(longer[-1]), self._length(int(longer[-1]))

    def _length(self, token: int) -> int:
        return len(self.pieces[token] or b"")

    def _covers(self, before: int, text: bytes) -> bool:
        """Whether tokens can follow another over a text, each two neighbours being stable."""
        key = (before, text)
        if key not in self._covered:
            ends_here = self.encode((self.pieces[before] or b"") + text)[0] == before
            self._covered[key] = ends_here or next(self.covers(before, text), None) is not None
        return self._covered[key]

    def first(self, before: int | None, text: bytes) -> First:
        """Return what comes behind a token when the text behind it begins like this.

        Args:
            before: the token in front, None for the begin of a text.
            text: the bytes behind it that are known, at least one.
        """
        key = (before, text)
        if key not in self._firsts:
            self._firsts[key] = self._first(before, text)
        return self._firsts[key]

    def _first(self, before: int | None, text: bytes) -> First:
        start = b"" if before is None else self.pieces[before] or b""
        if not start:
            before = None
        tokens = self.encode(start + text)
        if before is None:
            token = tokens[0]
        else:
            token = tokens[1] if tokens[0] == before and len(tokens) > 1 else -1
        kept = before is None or not self._may_lose(before, start + text)
        if token < 0:
            sure = next(self.covers(before, text), None) is None
            return First(-1, sure, sure)
        other = next(self.covers(before, text, but=token), None)
        return First(token, kept and other is None, kept)

    def _may_lose(self, before: int, text: bytes) -> bool:
        """Whether a text that begins like this may have another token in its beginning."""
        return next(self.covers(None, text, but=before), None) is not None

    def boundary(self, text: bytes) -> int:
        """Return the last place at which every text that begins like this has a token's end.

        It is looked for among the last `REACH` tokens; their begin is taken to be one.
        """
        tokens = self.encode(text)
        kept = tokens[: max(0, len(tokens) - REACH)]
        begin = len(self.text(kept))
        tail = text[begin:]
        inside: set[int] = set()
        seen: set[tuple[int, int | None]] = set()
        waiting: list[tuple[int, int | None]] = [(0, kept[-1] if kept else None)]
        while waiting:
            state = waiting.pop()
            if state in seen or state[0] == len(tail):
                continue
            seen.add(state)
            place, before = state
            for token, length in self.covers(before, tail[place:]):
                end = place + length
                inside.update(range(place + 1, min(end, len(tail) + 1)))
                if end > len(tail):
                    break  # the others that reach so far say the same
                waiting.append((end, token))
        return begin + max(place for place in range(len(tail) + 1) if place not in inside)


def merged(symbols: Sequence[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merge neighbours until none is left to merge, the lowest rank and then the leftmost first.

    Args:
        symbols: the tokens to start from.
        merges: the rank of each pair, and the token that it becomes.
    """
    tokens: list[int] = list(symbols)
    after = list(range(1, len(tokens) + 1))
    ahead = list(range(-1, len(tokens) - 1))
    alive = [True] * len(tokens)

    def found(place: int) -> Iterator[tuple[int, int, int, int, int]]:
        if place >= 0 and after[place] < len(tokens):
            pair = (tokens[place], tokens[after[place]])
            if pair in merges:
                yield (merges[pair][0], place, merges[pair][1], *pair)

    heap = [item for place in range(len(tokens)) for item in found(place)]
    heapq.heapify(heap)
    while heap:
        _, place, token, left, right = heapq.heappop(heap)
        if not alive[place] or after[place] >= len(tokens):
            continue
        other = after[place]
        if tokens[place] != left or tokens[other] != right:
            continue
        tokens[place], alive[other] = token, False
        after[place] = after[other]
        if after[place] < len(tokens):
            ahead[after[place]] = place
        for start in (ahead[place], place):
            for item in found(start):
                heapq.heappush(heap, item)
    return [token for token, there in zip(tokens, alive, strict=True) if there]
