"""A teacher whose distributions are a table, and sums over everything that it may write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gradalign.tokenization.masses import Masses, NodeMasses
from gradalign.tokenization.pairs import BytePairs
from gradalign.tokenization.vocabulary import Vocabulary

Floats = npt.NDArray[np.float64]


def made_pairs(merges: Sequence[tuple[bytes, bytes]], letters: bytes) -> BytePairs:
    """Return a byte-pair encoding with these merges; the last token is the end, without text."""
    pieces: list[bytes | None] = [bytes([letter]) for letter in letters]
    ranks: dict[tuple[int, int], tuple[int, int]] = {}
    for left, right in merges:
        if left + right not in pieces:
            pieces.append(left + right)
        pair = (pieces.index(left), pieces.index(right))
        ranks.setdefault(pair, (len(ranks), pieces.index(left + right)))
    of_byte = {letter: place for place, letter in enumerate(letters)}
    return BytePairs([*pieces, None], ranks, lambda text: [of_byte[byte] for byte in text])


class TableTeacher:
    """A teacher of short texts: what comes next depends on how many tokens came and on the last.

    Args:
        pieces: its tokens; the last one is the end.
        length: tokens with text at most.
        rng: draws the table.
    """

    def __init__(
        self, pieces: Sequence[bytes | None], length: int, rng: np.random.Generator
    ) -> None:
        self.vocabulary = Vocabulary(pieces)
        self._length, self._end = length, len(pieces) - 1
        raw = rng.gamma(0.7, size=(length, len(pieces), len(pieces))) + 1e-3
        self._table = raw / raw.sum(axis=-1, keepdims=True)

    def distribution(self, sequence: Sequence[int]) -> Floats:
        """Return log-probabilities of all tokens behind a sequence."""
        if len(sequence) < self._length:
            last = sequence[-1] if sequence else self._end
            prob_V = self._table[len(sequence), last]
        else:
            prob_V = np.eye(self._end + 1)[self._end]
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(prob_V))

    def texts(
        self, sequence: tuple[int, ...] = (), prob: float = 1.0
    ) -> Iterator[tuple[bytes, float]]:
        """Yield every text that it may write, once per sequence of tokens, with its probability."""
        prob_V = np.exp(self.distribution(sequence))
        yield self.vocabulary.text(sequence), prob * float(prob_V[self._end])
        for token in range(self._end):
            if prob_V[token] > 0.0:
                yield from self.texts((*sequence, token), prob * float(prob_V[token]))


def read(node: NodeMasses, teacher: TableTeacher, most: int = 10**9) -> Masses:
    """Answer a node until it wants no more, or `most` distributions were read."""
    while most > 0 and (wanted := node.wanted(most)):
        for sequence in wanted:
            node.give(sequence, teacher.distribution(sequence))
        most -= len(wanted)
    return node.masses()


def enumerated(
    student: BytePairs, teacher: TableTeacher, begun: bytes, cut: bool
) -> tuple[Floats, Floats, float]:
    """Return Q and B of every token of the student, and the share of texts that keep its begin.

    By their definitions: each text is cut by the student's tokenizer, whole, or from a node on at
    which a token without text stands (`cut` is False).
    """
    size, end = len(student.pieces), len(student.pieces) - 1
    q, b, seen = np.zeros(size), np.zeros(size), 0.0
    own = student.encode(begun) if cut else []
    for text, prob in teacher.texts():
        if not text.startswith(begun):
            continue
        seen += prob
        rest = text[len(begun) :]
        for token in range(size):
            piece = student.pieces[token]
            b[token] += prob if (rest.startswith(piece) if piece else not rest) else 0.0
        tokens = [*student.encode(text if cut else rest), end]
        if tokens[: len(own)] == own:
            q[tokens[len(own)]] += prob
    return q / q.sum(), b / seen, float(q.sum() / seen)
