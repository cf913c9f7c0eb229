"""How a teacher's tokens answer to the student's, as a stage needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradalign.models import load_config, resolve_model, vocab_size
from gradalign.models.checkpoints.generation import end_token_ids
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.event_space import EventSpace, event_space
from gradalign.models.prompts.render import stop_token_ids
from gradalign.stages.base import Run
from gradalign.tokenization.matching import ByteMatching, Ints, byte_matching, other_ids


def ids_of(run: Run, model: str) -> Ints | None:
    """Return a teacher's id of each of the student's tokens; None where they are the same."""
    if run.resolved.matching.get(model) != "ids":
        return None
    return other_ids(*_both(run, model))


def bytes_of(run: Run, model: str) -> ByteMatching | None:
    """Return both tokenizers as bytes; None where that is not how they are matched."""
    if run.resolved.matching.get(model) != "bytes":
        return None
    return byte_matching(*_both(run, model), model)


def teacher_tokens(run: Run, model: str) -> EventSpace:
    """Return all tokens of a teacher."""
    settings = load_config(
        model, revision=run.revision_of(model), trust_remote_code=run.config.trust_remote_code
    )
    return event_space(_tokenizer(run, model), vocab_size(model, settings))


def _both(run: Run, model: str) -> tuple[Any, Any, list[int], list[int]]:
    """Return both tokenizers, and what ends a response of each, the usual end first."""
    student, teacher = (_tokenizer(run, name) for name in (run.config.student, model))
    settings = load_config(
        model, revision=run.revision_of(model), trust_remote_code=run.config.trust_remote_code
    )
    named = end_token_ids(
        model, resolve_model(model), settings, commit=run.resolved.commits.get(model)
    )
    others = stop_token_ids(
        teacher,
        list(named),
        chat_template=run.teacher_template,
        template_kwargs=run.config.teacher_chat_template_kwargs,
    )
    own = usual_first(student, run.resolved.stop_token_ids)
    return student, teacher, own, usual_first(teacher, others)


def _tokenizer(run: Run, model: str) -> Any:
    return load_tokenizer(
        resolve_model(model), run.revision_of(model), run.config.trust_remote_code
    )


def usual_first(tokenizer: Any, ends: Sequence[int]) -> list[int]:
    """Put the tokenizer's own end token first."""
    return sorted(ends, key=lambda token: (token != tokenizer.eos_token_id, token))
