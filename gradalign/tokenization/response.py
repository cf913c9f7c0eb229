"""A response of the student as the teacher's tokens, and where the student's nodes are in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

from gradalign.errors import TokenizerMismatchError
from gradalign.tokenization.pairs import BytePairs


@dataclass(frozen=True)
class Place:
    """A node among the teacher's tokens.

    Attributes:
        index: how many of the teacher's tokens come before the boundary that is gone back to.
        begun: the bytes from there to the node.
        before: the student's token before the node, None where that has no text or is not there.
    """

    index: int
    begun: bytes
    before: int | None


class ByteResponse:
    """A response in both tokenizers.

    Text between tokens without text is cut anew by the teacher's tokenizer; those without stand
    for what has their role. From one on that has no counterpart, the teacher cannot read.

    Args:
        student, teacher: the tokenizers.
        ids: the response.
        roles: per token of the student without text, the teacher's for the same.
        teacher_ids: the teacher's tokens of the response, where somebody else cut it.

    Attributes:
        teacher_ids: the response as far as the teacher can read it.

    Raises:
        TokenizerMismatchError: `teacher_ids` are other bytes.
    """

    def __init__(
        self,
        student: BytePairs,
        teacher: BytePairs,
        ids: Sequence[int],
        roles: Mapping[int, int],
        teacher_ids: Sequence[int] | None = None,
    ) -> None:
        self._student, self._teacher, self._ids = student, teacher, list(ids)
        readable = len(self._ids)
        pieces: list[tuple[int, int]] = []  # [begin, end) of a text among the student's tokens
        begin = 0
        for place, token in enumerate(self._ids):
            if not student.pieces[token]:
                pieces.append((begin, place))
                begin = place + 1
                if token not in roles:
                    readable = place
                    break
        else:
            pieces.append((begin, len(self._ids)))
        self._readable, self._segments = readable, pieces
        self._starts: list[int] = []
        cut: list[int] = []
        for first, last in pieces:
            self._starts.append(len(cut))
            cut += teacher.encode(student.text(self._ids[first:last]))
            if last < readable:
                cut.append(roles[self._ids[last]])
        self.teacher_ids = cut if teacher_ids is None else list(teacher_ids)
        if teacher.text(self.teacher_ids) != student.text(self._ids[:readable]):
            raise TokenizerMismatchError(
                "the teacher's tokens of a response are other bytes than the student's.",
                "Check for a tokenizer that changes texts, or tokens that are one position off.",
            )

    def at(self, position: int) -> Place | None:
        """Return where a node is; None behind what the teacher cannot read.

        Args:
            position: how many of the student's tokens come before it.
        """
        if position > self._readable:
            return None
        number = bisect_right([first for first, _ in self._segments], position) - 1
        first, start = self._segments[number][0], self._starts[number]
        text = self._student.text(self._ids[first:position])
        pieces = (self._teacher.pieces[token] for token in self.teacher_ids[start:])
        lengths = (len(piece) for piece in takewhile(bool, pieces) if piece)
        ends = list(accumulate(lengths, initial=0))
        index = bisect_right(ends, self._teacher.boundary(text)) - 1
        return Place(
            index=start + index,
            begun=text[ends[index] :],
            before=self._ids[position - 1] if position > first else None,
        )
