"""What every rollout engine is: token ids in, token ids out, one seed per request."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings
from gradalign.runtime import add_model_seconds

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """One sequence to continue.

    Attributes:
        prompt_ids: everything before the first token to be sampled (forced candidate included).
        max_tokens: at most this many new tokens, >= 1.
        seed: 63-bit; with `prompt_ids` it fixes the result, whatever else is in the batch.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """What a request became.

    Attributes:
        token_ids: the new tokens, int32 [T], stop token included.
        finish_reason: "stop" (a stop token was drawn) or "length" (cut off).
    """

    token_ids: npt.NDArray[np.int32]
    finish_reason: FinishReason


@dataclass
class EngineUsage:
    """What an engine has done so far, for run.json and the plan; `seconds` it was at work."""

    num_requests: int = 0
    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def add_seconds(self, seconds: float) -> None:
        """Count time at work, here and in the sum of this process."""
        self.seconds += seconds
        add_model_seconds(seconds)


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is opened with.

    Attributes:
        model: a folder, a hub id, or `demo:NAME`.
        sampling: how tokens are drawn.
        max_model_len: a shorter context than the model's own, None for the model's.
        dtype: `auto` is float32 on CPU and the checkpoint's own elsewhere.
        device: `auto`, `cpu`, `cuda`, ...
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run code that comes with the checkpoint.
        seed: for what an engine itself may draw; every request brings its own seed.
        engine_args: further arguments of the engine, from `--engine-args k=v`, typed.
        base_urls: the servers of engine `server`.
        tokens: the tokens that may be drawn and that every distribution is over; None for all
            rows of the output layer.
    """

    model: str
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    max_model_len: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    base_urls: tuple[str, ...] = ()
    tokens: EventSpace | None = None


class Engine(Protocol):
    """Samples from one model. Context manager; `close` frees the model's memory."""

    name: str
    usage: EngineUsage

    def generate(self, requests: Iterable[Request | None]) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the request, its completion) as they finish, in any order.

        Requests are pulled as there is room, so `requests` may depend on what was yielded
        before: it yields None to say "nothing at the moment, ask again after the next
        completion". None does not count in the index. A list is checked as a whole before
        any work; a lazy iterable request by request, as each is pulled.

        Raises:
            ContextOverflowError: a request longer than the model's context.
            ValueError: an empty prompt, a token id outside the vocabulary, max_tokens < 1.
            EngineError: the engine failed; nothing that was yielded is lost.
            NotNumbersError: the model gave no distribution, on the request of that index.
        """
        ...

    def logprobs(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability (natural log, temperature 1) of each token from `start` on."""
        ...

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Closing(ABC):
    """What engines share as context managers: they close at the end of the block."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def derive_seed(run_seed: int, question_id: str, prefix_ids: Sequence[int], index: int) -> int:
    """Turn what identifies a rollout into a 63-bit seed; the same rollout always gets the same.

    `prefix_ids` is the prompt, the spine's tokens and the forced candidate; they are hashed.
    Rollouts of one prefix have seeds in a row, as a server gives to the samples of one request.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{run_seed}\x00{question_id}\x00".encode())
    digest.update(np.asarray(prefix_ids, dtype="<i4").tobytes())
    return nth_seed(int.from_bytes(digest.digest(), "little") >> 1, index)


def nth_seed(first_seed: int, index: int) -> int:
    """Return the seed of a prefix's rollout `index` from that of its first."""
    return (first_seed + index) % 2**63
