"""What every rollout engine is: token ids in, token ids out, one seed per request.

A caller submits requests and receives completions, each under the key that its request was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from gradalign.engines.requests import ModelLimits, Request
from gradalign.errors import EngineError
from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings
from gradalign.runtime import add_model_seconds

FinishReason = Literal["stop", "length"]


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
class Foreseen:
    """The work that an engine is opened for.

    Attributes:
        requests: how many there will be in all.
        tokens: how many they will draw in all.
        weight_bytes: the model's weights, None if unknown.
    """

    requests: int
    tokens: int
    weight_bytes: int | None


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
        foreseen: the work, None if nothing is known of it.
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
    foreseen: Foreseen | None = None


class Engine(ABC):
    """Samples from one model. Context manager; `close` frees the model's memory.

    Two ways to sample: `generate` for requests that are known beforehand, `submit` and `receive`
    for those that depend on what came before. Whoever begins last has the engine: what another
    caller left is dropped, and that caller is told when it goes on.

    A subclass sets `name`, `usage`, `limits` and `sampling`, and defines `room`, `logprobs`,
    `_start`, `_advance`, `_drop` and `_free`. Checks, counts and the order of calls are here.

    Attributes:
        name: as registered.
        usage: what it has done so far.
        limits: what the model can take; every request is checked against it.
        sampling: how tokens are drawn. May be set while nothing is running.
        holds_memory: whether its model is in this machine's memory.
        can_sleep: whether it can leave its device's memory to others, and come back to it.
        instead_of: a sentence that says so, if `auto` would have had another that did not start.
    """

    name: str
    usage: EngineUsage
    limits: ModelLimits
    sampling: SamplingSettings
    holds_memory = True
    can_sleep = False
    instead_of = ""

    _closed = False
    _asleep = False
    _num_running = 0
    # Whoever has the engine for a block; None if it is whoever calls `submit`.
    _owner: object | None = None

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more requests it can make use of now; 0 while it has enough.

        More may be submitted, and wait. At least 1 while nothing is running.
        """

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests; all are checked before any of them is begun.

        Raises:
            ContextOverflowError: a request longer than the model's context.
            ValueError: an empty prompt, a token id outside the vocabulary, max_tokens < 1.
            EngineError: the engine failed, or has been closed.
        """
        self._check_open()
        if self._owner is not None:
            self.abort()
        self._submit(requests)

    def receive(self) -> list[tuple[Any, Completion]]:
        """Go on; return (key of the request, its completion) for what has finished meanwhile.

        In any order. An empty list says that nothing has yet, and that there may be `room`.

        Raises:
            EngineError: the engine failed, has been closed, was used for something else, or has
                nothing to do; nothing that was received is lost.
            NotNumbersError: the model gave no distribution, on the request of that key.
        """
        self._check_open()
        if self._owner is not None:
            raise _used_meanwhile()
        return self._receive()

    def abort(self) -> None:
        """Drop every request that is under way."""
        running, self._num_running, self._owner = self._num_running, 0, None
        if running and not self._closed:
            self._drop()

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield (place of the request in `requests`, its completion) as they finish.

        Places stand for the requests' own keys. Requests are taken as there is room. A list is
        checked as a whole before any work; another iterable request by request.

        Raises:
            ContextOverflowError, ValueError: see submit.
            EngineError: the engine failed, or was used for something else before all were done;
                nothing that was yielded is lost.
            NotNumbersError: the model gave no distribution, on the request of that place.
        """
        self._check_open()
        placed = (replace(request, key=place) for place, request in enumerate(requests))
        if isinstance(requests, Sequence):
            # A list can be judged before anything is spent on its first entries.
            listed = list(placed)
            self.limits.check_all(listed)
            return self._generate(iter(listed))
        return self._generate(placed)

    @abstractmethod
    def logprobs(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability (natural log, temperature 1) of each token from `start` on.

        Raises:
            ContextOverflowError, ValueError: a sequence that the model cannot score.
            EngineError: the engine failed, or has been closed.
            NotNumbersError: the model gave no distribution, on the sequence of that index.
        """

    def sleep(self) -> None:
        """Leave the device's memory to others, if it can; what is under way is dropped.

        Raises:
            EngineError: the engine failed, or has been closed.
        """
        self._check_open()
        self.abort()
        if self.can_sleep and not self._asleep:
            self._asleep = True
            self._fall_asleep()

    def wake(self) -> None:
        """Come back after `sleep`; nothing else may be asked for before that.

        Raises:
            EngineError: the engine failed, has been closed, or its memory is not free any more.
        """
        self._check_open()
        if self._asleep:
            self._wake_up()
            self._asleep = False

    def close(self) -> None:
        """Free the model; the engine cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            self._num_running, self._owner = 0, None
            self._free()

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

    # What a subclass defines. They are called in a sensible order only, and never once closed.

    @abstractmethod
    def _start(self, requests: Sequence[Request]) -> None:
        """Take checked requests, at least one; the order is free."""

    @abstractmethod
    def _advance(self) -> list[tuple[Any, Completion]]:
        """Go on with what is under way, and return (key, completion) of what has finished."""

    @abstractmethod
    def _drop(self) -> None:
        """Forget all requests under way; nothing of them may come out of `_advance`."""

    @abstractmethod
    def _free(self) -> None:
        """Free what is held; called once."""

    # Only an engine that can sleep defines these.

    def _fall_asleep(self) -> None:
        """Leave the device's memory."""
        raise NotImplementedError

    def _wake_up(self) -> None:
        """Take it again."""
        raise NotImplementedError

    # What subclasses use.

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the engine has been closed.", "Open a new one.")

    @contextmanager
    def _alone(self) -> Iterator[Callable[[], None]]:
        """Have the engine for a block; what is under way after it is dropped.

        Yields a function that raises EngineError if somebody else has the engine by now.
        """
        self.abort()
        mine = self._owner = object()

        def check() -> None:
            if self._owner is not mine:
                raise _used_meanwhile()

        try:
            yield check
        finally:
            if self._owner is mine:
                self.abort()

    def _generate(self, requests: Iterator[Request]) -> Iterator[tuple[int, Completion]]:
        with self._alone() as check:
            while True:
                if room := self.room:
                    self._submit(list(islice(requests, room)))
                if not self._num_running:
                    return
                for place, completion in self._receive():
                    yield place, completion
                    check()

    def _submit(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        self.limits.check_all(requests)
        self.usage.num_requests += len(requests)
        self.usage.prompt_tokens += sum(len(request.prompt_ids) for request in requests)
        self._num_running += len(requests)
        self._start(requests)

    def _receive(self) -> list[tuple[Any, Completion]]:
        if not self._num_running:
            raise EngineError("there is nothing to receive: nothing is running.")
        done = self._advance()
        self._num_running -= len(done)
        self.usage.generated_tokens += sum(completion.token_ids.size for _, completion in done)
        return done


def _used_meanwhile() -> EngineError:
    return EngineError("the engine was used for something else meanwhile.")
