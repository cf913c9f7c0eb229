"""Whether teachers with another tokenizer can be read, before models run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradalign import methods
from gradalign.config import ScoreConfig, chosen_diagnostics
from gradalign.errors import UsageError
from gradalign.models.checkpoints.tokenizers import check_agreement
from gradalign.models.event_space import EventSpace
from gradalign.stages.base import Run
from gradalign.stages.preparation.reader import Reader
from gradalign.stages.servers import teacher_servers
from gradalign.tokenization.matching import kind_of, other_ids
from gradalign.tokenization.reading import byte_pairs


def check_matching(config: ScoreConfig, student: Reader, teacher: Reader, label: str) -> None:
    """Refuse a teacher whose tokenizer is another one where that cannot be, or must not be.

    Args:
        config: all settings.
        student: the student.
        teacher: the teacher.
        label: the teacher's, for messages.

    Raises:
        TokenizerMismatchError: the same one is required, or one of both cannot be read as bytes.
        UsageError: the teacher is on servers, or is to sample.
    """
    kind = kind_of(student.tokenizer, teacher.tokenizer)
    if kind == "same":
        return
    if config.require_same_tokenizer:
        check_agreement(student.tokenizer, teacher.tokenizer, label)
    if teacher.model in teacher_servers(config):
        raise UsageError(
            f"teacher {label} has another tokenizer than the student and is on servers.",
            "Leave its --teacher-base-url out: such a teacher is read in memory only.",
        )
    for flag, wanted in (
        ("--teacher-accuracy", config.teacher_accuracy > 0),
        ("--diagnose prefix", "prefix" in chosen_diagnostics(config.diagnose)),
    ):
        if wanted:
            raise UsageError(
                f"{flag}: teacher {label} has another tokenizer than the student and would be "
                "sampled from.",
                f"Leave {flag} out: such a teacher is only read.",
            )
    if kind == "bytes":
        byte_pairs(student.tokenizer, f"student {student.model}")
        byte_pairs(teacher.tokenizer, f"teacher {label}")


def matchings(student: Reader, teachers: Sequence[Reader]) -> dict[str, str]:
    """Return how a teacher checkpoint's tokens answer to the student's, where ids do not."""
    kinds = {item.model: kind_of(student.tokenizer, item.tokenizer) for item in teachers}
    return {model: kind for model, kind in kinds.items() if kind != "same"}


def common_tokens(config: ScoreConfig, student: Reader, teacher: Reader) -> EventSpace:
    """Return the student's tokens that it and a teacher are compared on.

    One that is matched by bytes can say any of them.
    """
    kind = kind_of(student.tokenizer, teacher.tokenizer)
    if kind == "same":
        return student.tokens.common(teacher.tokens)
    if kind == "bytes":
        return student.tokens
    ends = [*config.stop_token_ids, *student.ends()]
    ids = other_ids(student.tokenizer, teacher.tokenizer, ends, teacher.ends())
    known = np.flatnonzero((ids >= 0) & teacher.tokens.mask(ids))
    return student.tokens.common(EventSpace.of(known.tolist()))


def matching_lines(run: Run) -> list[str]:
    """Say which teachers are matched by bytes, and which methods are left out for them.

    Raises:
        UsageError: every method is, for some teacher.
    """
    lines: list[str] = []
    chosen = [methods.get(spec) for spec in run.config.methods]
    looking = [method for method in chosen if method.of_teacher]
    for teacher in run.read_teachers:
        label = teacher.label
        if not run.matched_by_bytes(label):
            continue
        lines.append(
            f"teacher {label} has another tokenizer: matched by bytes, on the "
            f"{run.kept_tokens(label)} most probable tokens of each model per node (and the drawn "
            "one). Its probabilities are off by at most `bound` in table matches: look before "
            "you rely on its alignment"
        )
        why = {method.spec: run.why_left_out(label, method) for method in looking}
        if looking and all(why.values()):
            raise UsageError(
                f"teacher {label} has another tokenizer and is known at the nodes only, and every "
                "--method needs more of a teacher.",
                "Add a method that looks at the next token alone, such as --method gkd.",
            )
        lines += [f"{spec} is left out for {label}: {text}" for spec, text in why.items() if text]
    return lines
