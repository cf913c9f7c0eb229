"""What holds for every pair of tokenizers, on random ones and random Unicode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradalign.errors import TokenizerMismatchError
from gradalign.tokenization.masses import NodeMasses
from gradalign.tokenization.pairs import BytePairs
from gradalign.tokenization.response import ByteResponse
from tests.tokenization.enumerated import TableTeacher, made_pairs, read

ALPHABET = "ab 1\u00e9\u65e5\U0001f642"
"""Of one to four bytes."""

LETTERS = bytes(sorted(set(ALPHABET.encode())))

texts = st.text(ALPHABET, max_size=8)


@st.composite
def pairs(draw: st.DrawFn) -> BytePairs:
    """Draw a byte-pair encoding: merges of neighbours as they come in a random text."""
    corpus = [bytes([byte]) for byte in draw(st.text(ALPHABET, min_size=3, max_size=24)).encode()]
    merges = []
    for _ in range(draw(st.integers(0, 12))):
        if len(corpus) < 2:
            break
        at = draw(st.integers(0, len(corpus) - 2))
        pair = (corpus[at], corpus[at + 1])
        merges.append(pair)
        joined: list[bytes] = []
        for piece in corpus:
            if joined and (joined[-1], piece) == pair:
                joined[-1] = joined[-1] + piece
            else:
                joined.append(piece)
        corpus = joined
    return made_pairs(merges, LETTERS)


@settings(max_examples=150, deadline=None)
@given(pairs(), texts, texts, texts)
def test_first_token_is_what_every_longer_text_has(
    student: BytePairs, begin: str, begun: str, more: str
) -> None:
    """What is sure of a beginning holds for whatever comes after it."""
    before = student.encode(begin.encode())[-1] if begin else None
    text = begun.encode()
    for length in range(1, len(text) + 1):
        said = student.first(before, text[:length])
        start = student.pieces[before] or b"" if before is not None else b""
        tokens = student.encode(start + text + more.encode())
        if before is None:
            token = tokens[0]
        else:
            token = tokens[1] if tokens[0] == before and len(tokens) > 1 else -1
        if said.sure:
            assert token == said.token
        if said.kept:
            assert (token >= 0) == (said.token >= 0)


@settings(max_examples=150, deadline=None)
@given(pairs(), texts, texts)
def test_boundary_is_kept_by_every_longer_text(teacher: BytePairs, begun: str, more: str) -> None:
    """Tokens up to the boundary are those of whatever comes after, too."""
    text = begun.encode()
    place = teacher.boundary(text)
    own, longer = teacher.encode(text), teacher.encode(text + more.encode())
    ends = np.cumsum([0, *(len(teacher.pieces[token] or b"") for token in longer)]).tolist()
    assert place in ends
    count = ends.index(place)
    assert longer[:count] == own[:count]


@settings(max_examples=40, deadline=None)
@given(pairs(), pairs(), texts, st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_masses_of_candidates_are_disjoint_and_bytes_nested(
    student: BytePairs, teacher: BytePairs, begun: str, seed: int, reads: int
) -> None:
    """Q sums to 1 at most, and B of a text is at least that of what begins with it."""
    table = TableTeacher(teacher.pieces, 3, np.random.default_rng(seed))
    text = begun.encode()[:2]
    node = NodeMasses(
        student,
        table.vocabulary,
        before=student.encode(text)[-1] if text else None,
        begun=text,
        candidates=range(len(student.pieces)),
        ends={len(teacher.pieces) - 1: len(student.pieces) - 1},
        most=4,
    )
    found = read(node, table, reads)
    if not found.kept:
        return
    assert found.q_C.sum() <= 1 + 1e-9
    for shorter, piece in enumerate(student.pieces):
        for longer, other in enumerate(student.pieces):
            if piece and other and other.startswith(piece):
                assert found.byte_C[shorter] >= found.byte_C[longer] - 1e-12


@settings(max_examples=80, deadline=None)
@given(
    pairs(),
    pairs(),
    st.text(ALPHABET, min_size=1, max_size=12),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_places_of_a_response_are_the_same_bytes(
    student: BytePairs, teacher: BytePairs, written: str, silent: list[int]
) -> None:
    """At every node the teacher's tokens and the bytes behind them are the student's.

    So they are with tokens without text in between, which stay where they are.
    """
    ids = student.encode(written.encode())
    end, other = len(student.pieces) - 1, len(teacher.pieces) - 1
    for place in sorted((item % (len(ids) + 1) for item in silent), reverse=True):
        ids.insert(place, end)
    response = ByteResponse(student, teacher, ids, {end: other})
    assert teacher.text(response.teacher_ids) == written.encode()
    for position in range(len(ids)):
        place_ = response.at(position)
        assert place_ is not None
        path = response.teacher_ids[: place_.index]
        assert teacher.text(path) + place_.begun == student.text(ids[:position])
        assert path.count(other) == ids[:position].count(end)
        assert (place_.before is None) == (position == 0 or ids[position - 1] == end)


@settings(max_examples=40, deadline=None)
@given(pairs(), pairs(), st.text(ALPHABET, min_size=2, max_size=12))
def test_a_shift_by_one_byte_is_found_out(
    student: BytePairs, teacher: BytePairs, written: str
) -> None:
    """Tokens of the teacher that begin a byte later are refused."""
    ids = student.encode(written.encode())
    shifted = teacher.encode(written.encode()[1:])
    with pytest.raises(TokenizerMismatchError, match="other bytes"):
        ByteResponse(student, teacher, ids, {}, teacher_ids=shifted)
