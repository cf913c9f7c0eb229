"""Requests, and what a model can take: they are checked before anything is spent on them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from gradalign.errors import ContextOverflowError, UsageError


@dataclass(frozen=True)
class Request:
    """One sequence to continue.

    Attributes:
        prompt_ids: everything before the first token to be sampled (forced candidate included).
        max_tokens: at most this many new tokens, >= 1.
        seed: 63-bit; with `prompt_ids` it fixes the result, whatever else is in the batch.
        key: the caller's own name for the request, which its completion comes back under. Errors
            show its text. It changes no result, and is no part of a comparison.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int
    key: Hashable = field(default=None, compare=False)


@dataclass(frozen=True)
class ModelLimits:
    """What a model can take.

    Attributes:
        vocab_size: token ids are below this.
        max_model_len: prompt and response together have at most this many tokens.
    """

    vocab_size: int
    max_model_len: int

    def check_all(self, requests: Sequence[Request]) -> None:
        """Check requests, but not again what one shares with the one before.

        Raises:
            ContextOverflowError, ValueError: see check; the first that cannot be answered.
        """
        last: Request | None = None
        for request in requests:
            if (
                last is None
                or request.prompt_ids is not last.prompt_ids
                or request.max_tokens != last.max_tokens
                or not 0 <= request.seed < 2**63
            ):
                self.check(request)
            last = request

    def check(self, request: Request) -> None:
        """Refuse a request that the model cannot answer in full.

        Raises:
            ContextOverflowError: prompt and response do not fit into the context.
            ValueError: an empty prompt, an id outside the vocabulary, or max_tokens < 1.
        """
        key = request.key
        if request.max_tokens < 1:
            raise ValueError(f"request {key} has max_tokens {request.max_tokens}, must be >= 1")
        if request.seed < 0 or request.seed >= 2**63:
            raise ValueError(f"request {key} has seed {request.seed}, must be in [0, 2**63)")
        self.check_ids(key, request.prompt_ids)
        total = len(request.prompt_ids) + request.max_tokens
        if total > self.max_model_len:
            raise ContextOverflowError(
                f"request {key} needs {len(request.prompt_ids)} prompt tokens and up to "
                f"{request.max_tokens} new ones, {total} in all, but the model's context is "
                f"{self.max_model_len}.",
                "Lower --max-tokens or leave the question out.",
            )

    def check_ids(self, key: object, ids: Sequence[int]) -> None:
        """Refuse an empty sequence and ids that the model has no embedding for.

        Raises:
            ValueError: with the request's key or the sequence's index and the first offending id.
        """
        if not ids:
            raise ValueError(f"request {key} has an empty prompt")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            bad = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise ValueError(
                f"request {key} holds token id {bad}, outside the model's vocabulary "
                f"[0, {self.vocab_size})"
            )

    def check_sequence(self, index: int, ids: Sequence[int], start: int) -> None:
        """Refuse a sequence whose tokens from `start` on cannot be scored.

        Raises:
            ContextOverflowError: the sequence is longer than the context.
            ValueError: `start` is not in [1, len(ids)], or an id is outside the vocabulary.
        """
        self.check_ids(index, ids)
        if not 1 <= start <= len(ids):
            raise ValueError(
                f"sequence {index} has start {start}; the first token has no log-probability, so "
                f"it must be in [1, {len(ids)}]"
            )
        if len(ids) > self.max_model_len:
            raise ContextOverflowError(
                f"sequence {index} has {len(ids)} tokens, but the model's context is "
                f"{self.max_model_len}.",
                "Lower --max-tokens or leave the question out.",
            )


def context_length(configured: int | None, asked: int | None, model: str) -> int:
    """Return the context length in use: the model's own, or a shorter one on demand.

    Raises:
        UsageError: more was asked for than the model was made for.
    """
    if configured is None:
        return asked if asked is not None else 2**31 - 1
    if asked is None:
        return configured
    if asked > configured:
        raise UsageError(
            f"a context of {asked} tokens was asked for, but {model} has {configured}.",
            "Lower the context length.",
        )
    return asked
