"""Loading tokenizers, and making sure that two of them mean the same by an id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.errors import ModelError, TokenizerMismatchError
from gradalign.models.checkpoints.failures import explained
from gradalign.models.checkpoints.loading import folder_signature
from gradalign.models.event_space import EventSpace

# tokenizer_config.json alone is not enough: transformers makes a tokenizer without a vocabulary.
_FILES = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken", "tokenization*.py")


_LENGTH_WARNING = "sequence-length-is-longer-than-the-specified-maximum"
"""Transformers' name of a warning that is given once."""


KEPT = 4
"""Tokenizers of folders that are kept: stages ask for the same few; a large one takes seconds."""

_kept: dict[tuple[object, ...], Any] = {}


def load_tokenizer(
    path_or_id: str, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Load the tokenizer of a checkpoint, or return it once more: do not change it.

    That of a folder is loaded anew when a file in there was changed.

    Args:
        path_or_id: a folder, or a hub id.
        revision: of the hub id.
        trust_remote_code: run the tokenizer's own code.

    Raises:
        ModelError: no such folder or hub id, gated, offline, or without tokenizer files.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        if not any(True for name in _FILES for _ in folder.glob(name)):
            raise ModelError(
                f"model folder {path_or_id} holds no tokenizer files.",
                "Copy tokenizer.json and tokenizer_config.json of the checkpoint there.",
            )
        path_or_id = str(folder)
    elif path_or_id.startswith(("/", ".", "~")) or path_or_id.count("/") > 1:
        raise ModelError(f"model folder {path_or_id} does not exist.", "Check the path.")
    signature = folder_signature(path_or_id)
    key = (trust_remote_code, *signature)
    if not signature or key not in _kept:
        tokenizer = _loaded(path_or_id, revision, trust_remote_code)
        if not signature:
            return tokenizer
        _kept[key] = tokenizer
        while len(_kept) > KEPT:
            _kept.pop(next(iter(_kept)))
    return _kept[key]


def _loaded(path_or_id: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    with explained(path_or_id, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            path_or_id, revision=revision, trust_remote_code=trust_remote_code
        )
        ids = tokenizer("1+1=2", add_special_tokens=False)["input_ids"]
    if not ids:
        raise ModelError(
            f"the tokenizer of {path_or_id} has no vocabulary.",
            "Copy tokenizer.json of the checkpoint there.",
        )
    # Lengths are checked by us; else it would print that "this sequence" is too long for a model.
    getattr(tokenizer, "deprecation_warnings", {})[_LENGTH_WARNING] = True
    return tokenizer


def check_agreement(student: Any, teacher: Any, teacher_label: str) -> None:
    """Check that both tokenizers mean the same by every id that both of them have.

    The teacher scores the student's own token ids. How far the embeddings are padded does not
    matter; ids that only one of them has are allowed as long as they do not occur
    (`check_ids_known`).

    Raises:
        TokenizerMismatchError: an id stands for different tokens; the message shows three.
    """
    if student is teacher:
        return
    student_tokens = _tokens(student)
    teacher_tokens = _tokens(teacher)
    different = sorted(
        index
        for index in student_tokens.keys() & teacher_tokens.keys()
        if student_tokens[index] != teacher_tokens[index]
    )
    if not different:
        return
    shown = "; ".join(
        f"id {index} is {student_tokens[index]!r} for the student and "
        f"{teacher_tokens[index]!r} for the teacher"
        for index in _spread(different)
    )
    raise TokenizerMismatchError(
        f"teacher {teacher_label} has another tokenizer than the student: {len(different)} ids "
        f"differ. {shown}.",
        "Choose a teacher of the student's family, or have it matched by bytes: leave out "
        "--require-same-tokenizer.",
    )


def check_ids_known(ids: Iterable[int], tokenizer: Any, label: str, where: str = "") -> None:
    """Check that a tokenizer has a token for every id that occurs.

    Args:
        ids: token ids of prompts or responses.
        tokenizer: the tokenizer of the model that is to read them.
        label: that model, for the message.
        where: the question or spine, for the message.

    Raises:
        TokenizerMismatchError: an id is unknown.
    """
    asked = set(ids)
    unknown = sorted(asked - _tokens(tokenizer).keys()) if asked else []
    if unknown:
        raise TokenizerMismatchError(
            f"{where + ': ' if where else ''}{label} has no token for the id"
            f"{'s' if len(unknown) > 1 else ''} {', '.join(map(str, unknown[:3]))}, which the "
            "student used.",
            "Choose a teacher whose tokenizer has all of the student's tokens.",
        )


def check_common(space: EventSpace, ids: npt.ArrayLike, model: str, where: str) -> None:
    """Check that a teacher has all tokens of a text of the student's.

    Args:
        space: the tokens that both have.
        ids: the text.
        model: the teacher's checkpoint, for the message.
        where: the spine or node, for the message.

    Raises:
        TokenizerMismatchError: it lacks one.
    """
    unknown = np.unique(np.asarray(ids)[~space.mask(ids)]).tolist()
    if unknown:
        raise TokenizerMismatchError(
            f"{where}: teacher {model} has no token for the id{'s' if len(unknown) > 1 else ''} "
            f"{', '.join(map(str, unknown[:3]))}, which the student used.",
            "Choose a teacher whose tokenizer has all of the student's tokens.",
        )


def _tokens(tokenizer: Any) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def _spread(indices: list[int]) -> list[int]:
    """Pick the first, the middle and the last of many."""
    if len(indices) <= 3:
        return indices
    return [indices[0], indices[len(indices) // 2], indices[-1]]
