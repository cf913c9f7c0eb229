"""Q_j and B_j of a teacher with another tokenizer, against sums over all that it may write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gradalign.tokenization.masses import NodeMasses
from gradalign.tokenization.response import ByteResponse
from tests.tokenization.enumerated import Floats, TableTeacher, enumerated, made_pairs, read

STUDENT = made_pairs([(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"c", b"c")], b"abc")
END = len(STUDENT.pieces) - 1
TEACHERS = {
    "nested": [b"ab", b"a", b"b", b"abc", b"c", None],
    "letters": [b"a", b"b", b"c", None],
    "long": [b"abcc", b"bca", b"a", b"cc", b"b", b"ca", b"c", None],
    "twice": [b"a", b"a", b"ab", b"b", b"c", None],
}
BEGUN = [b"", b"a", b"ab", b"b", b"abc", b"cc", b"bca"]


def node(teacher: TableTeacher, begun: bytes, before: int | None, **options: object) -> NodeMasses:
    """Return the sum over every sequence of the teacher's tokens."""
    return NodeMasses(
        STUDENT,
        teacher.vocabulary,
        before=before,
        begun=begun,
        candidates=range(len(STUDENT.pieces)),
        ends={len(teacher.vocabulary.pieces) - 1: END},
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("name", TEACHERS)
def test_equal_to_the_enumeration_of_all_texts(name: str, begun: bytes) -> None:
    """Where all sequences are read, Q and B are exact, and the bound says so."""
    teacher = TableTeacher(TEACHERS[name], 4, np.random.default_rng(len(begun)))
    for before in {STUDENT.encode(begun)[-1] if begun else None, None}:
        q, b, share = enumerated(STUDENT, teacher, begun, before is not None)
        sums = node(teacher, begun, before, most=None, worth=0.0, settle_bytes=True)
        found = read(sums, teacher)
        np.testing.assert_allclose(found.q_C, q, atol=1e-9)
        np.testing.assert_allclose(found.byte_C, b, atol=1e-9)
        assert found.tail == pytest.approx(0.0, abs=1e-9)
        assert found.kept == pytest.approx(share, abs=1e-9)
        assert found.q_bound_C.max() < 1e-9
        assert found.byte_bound_C.max() < 1e-9


@pytest.mark.parametrize("begun", BEGUN)
@pytest.mark.parametrize("name", TEACHERS)
def test_within_the_bound_however_little_is_read(name: str, begun: bytes) -> None:
    """What is not read lies within the bound."""
    teacher = TableTeacher(TEACHERS[name], 4, np.random.default_rng(7 + len(begun)))
    before = STUDENT.encode(begun)[-1] if begun else None
    q, b, _ = enumerated(STUDENT, teacher, begun, before is not None)
    for reads in (1, 2, 3, 5, 9):
        for most in (1, 2, None):
            found = read(node(teacher, begun, before, most=most, worth=0.0), teacher, reads)
            assert found.reads <= reads
            assert (np.abs(np.nan_to_num(found.q_C) - q) <= found.q_bound_C + 1e-12).all()
            assert (np.abs(np.nan_to_num(found.byte_C) - b) <= found.byte_bound_C + 1e-12).all()
            assert np.nansum(found.q_C) <= 1 + 1e-12


class CanonicalTeacher(TableTeacher):
    """A teacher with the student's tokenizer that only writes what this makes of a text."""

    def distribution(self, sequence: Sequence[int]) -> Floats:
        """See `TableTeacher`."""
        log_prob_V = super().distribution(sequence).copy()
        for token in range(END):
            if sequence and not STUDENT.stable(sequence[-1], token):
                log_prob_V[token] = -np.inf
        return log_prob_V - np.logaddexp.reduce(log_prob_V)


@pytest.mark.parametrize("written", [b"abcab", b"ccca", b"bcabc", b"aab", b"cabcc"])
def test_same_tokenizer_is_read_as_it_says(written: bytes) -> None:
    """Where all mass is canonical, Q is the teacher's own distribution behind the same tokens."""
    teacher = CanonicalTeacher(STUDENT.pieces, 6, np.random.default_rng(len(written)))
    ids = STUDENT.encode(written)
    response = ByteResponse(STUDENT, STUDENT, ids, {})
    assert response.teacher_ids == ids
    for position in range(len(ids)):
        place = response.at(position)
        assert place is not None
        path = response.teacher_ids[: place.index]
        here = node(teacher, place.begun, place.before, most=None, worth=0.0)
        while wanted := here.wanted(10):
            for sequence in wanted:
                here.give(sequence, teacher.distribution([*path, *sequence]))
        found = here.masses()
        direct = np.exp(teacher.distribution(ids[:position]))
        np.testing.assert_allclose(found.q_C, direct, atol=1e-9)
        assert found.q_bound_C.max() < 1e-9
