"""How a teacher's tokens answer to the student's: the same ids, other ids, or bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradalign.tokenization.pairs import BytePairs
from gradalign.tokenization.reading import byte_pairs

Ints = npt.NDArray[np.int64]

Kind = Literal["same", "ids", "bytes"]
"""Every id that both have is the same token; the same pieces have other ids; other pieces."""

THINKING = (
    frozenset({"<think>", "[THINK]", "<thinking>", "<|START_THINKING|>"}),
    frozenset({"</think>", "[/THINK]", "</thinking>", "<|END_THINKING|>"}),
)
"""Names of the tokens that open and close thinking, in chat models' vocabularies."""


OTHER_ROLES = ("bos_token_id", "pad_token_id", "unk_token_id")
"""What tokenizers call tokens without text that end no response."""


@lru_cache(maxsize=16)
def kind_of(student: Any, teacher: Any) -> Kind:
    """Say how a teacher's tokens answer to the student's.

    Pieces are the same where both tokenizers cut a text alike: with the same merges (or scores, or
    words) after the same normalisation. Added tokens do not matter to that, nor do ids.

    Args:
        student: its tokenizer, of transformers.
        teacher: the teacher's.
    """
    if student is teacher:
        return "same"
    own, others = ({i: text for text, i in item.get_vocab().items()} for item in (student, teacher))
    if all(own[token] == others[token] for token in own.keys() & others.keys()):
        return "same"
    return "ids" if _cutting(student) == _cutting(teacher) is not None else "bytes"


def _cutting(tokenizer: Any) -> str | None:
    """Return all that decides how a text is cut, whatever ids there are; None if not known."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    settings = json.loads(backend.to_str())
    model = dict(settings["model"])
    vocabulary = model.pop("vocab")
    if model.get("type") == "BPE":
        model["merges"] = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
                           for pair in model["merges"]]  # fmt: skip
        if not model["merges"]:  # single symbols: which there are is all
            model["pieces"] = sorted(vocabulary)
    elif isinstance(vocabulary, dict):
        model["pieces"] = sorted(vocabulary)
    else:
        model["pieces"] = sorted(map(tuple, vocabulary))
    parts = [model, settings.get("normalizer"), settings.get("pre_tokenizer")]
    return json.dumps(parts, sort_keys=True)


def other_ids(
    student: Any, teacher: Any, student_ends: Sequence[int], teacher_ends: Sequence[int]
) -> Ints:
    """Return the teacher's id of each of the student's, -1 where it has none.

    The same piece is the same token. An end that the teacher has no token for is its own end.
    """
    own, others = student.get_vocab(), teacher.get_vocab()
    ids = np.full(max(own.values(), default=-1) + 1, -1, dtype=np.int64)
    for text, token in own.items():
        ids[token] = others.get(text, -1)
    taken = set(ids.tolist())
    free = [token for token in teacher_ends if token not in taken]
    for token in student_ends:
        if ids[token] < 0 and free:
            ids[token] = free.pop(0)
    return ids


@dataclass(frozen=True)
class ByteMatching:
    """Both tokenizers as bytes, and tokens without text by what they do.

    Attributes:
        student, teacher: the tokenizers.
        roles: per token of the student without text, the teacher's for the same.
        ends: per token of the teacher without text, the student's for the same.
    """

    student: BytePairs
    teacher: BytePairs
    roles: Mapping[int, int]
    ends: Mapping[int, int]

    def known(self, token: int) -> bool:
        """Whether a token of the student is text, or has a counterpart."""
        return bool(self.student.pieces[token]) or token in self.ends.values()


def byte_matching(
    student: Any,
    teacher: Any,
    student_ends: Sequence[int],
    teacher_ends: Sequence[int],
    label: str,
) -> ByteMatching:
    """Match two tokenizers by bytes.

    Args:
        student: its tokenizer, of transformers.
        teacher: the teacher's.
        student_ends: what ends its responses, the usual one first.
        teacher_ends: what ends the teacher's: each is the student's first one.
        label: the teacher, for messages.

    Raises:
        TokenizerMismatchError: one of them cannot be read as bytes.
    """
    roles: dict[int, int] = {}
    ends: dict[int, int] = {}
    if student_ends and teacher_ends:
        roles = dict.fromkeys(student_ends, teacher_ends[0])
        ends = dict.fromkeys(teacher_ends, student_ends[0])
    same: list[tuple[int | None, int | None]] = [
        (getattr(student, name), getattr(teacher, name)) for name in OTHER_ROLES
    ]
    for names in THINKING:
        same.append((_added(student, names), _added(teacher, names)))
    for own, other in same:
        if own is not None and other is not None:
            roles.setdefault(own, other)
            ends.setdefault(other, own)
    return ByteMatching(
        byte_pairs(student, "the student"), byte_pairs(teacher, f"teacher {label}"), roles, ends
    )


def _added(tokenizer: Any, names: frozenset[str]) -> int | None:
    """Return an added token of one of these names, None if there is none."""
    added = tokenizer.get_added_vocab()
    return next((int(added[name]) for name in sorted(names) if name in added), None)
