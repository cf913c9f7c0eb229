"""The embedded engine: a transformers model, decoded in large batches that share prefixes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradalign.engines.base import Completion, Engine, EngineUsage
from gradalign.engines.requests import ModelLimits, Request, context_length
from gradalign.engines.transformers import attention
from gradalign.engines.transformers.batch import Batch, Job
from gradalign.engines.transformers.model_call import ModelCall
from gradalign.engines.transformers.sampler import draw
from gradalign.engines.transformers.scoring import sequence_logprobs
from gradalign.engines.transformers.store_choice import choose_store
from gradalign.errors import EngineError
from gradalign.models.checkpoints.loading import context_length as configured_length
from gradalign.models.checkpoints.loading import loaded_model
from gradalign.models.event_space import EventSpace, only
from gradalign.models.numbers import NotNumbersError
from gradalign.models.sampling import SamplingSettings
from gradalign.runtime import free_memory, model_let_go

# New rows enter when at least this share of the batch is free, so that one prefill and one
# rebuilding of the cache serve many of them.
_REFILL_SHARE = 0.25

# Requests are sorted by prompt within a window of this many batches.
_WINDOW_BATCHES = 4

# Up to so many times `max_rows` requests run at once where they share rows. Beyond `max_rows` of
# them this part of the rows is filled, and the others are left for when they part.
_MOST_SHARED = 8
_PARTING_ROOM = 2

# Tokens of room that an entering row must have; a row that outgrows the memory is paused.
_ROOM_TOKENS = 256


class TransformersEngine(Engine):
    """Samples from a causal language model of transformers.

    A result depends on the request alone: each token is drawn by one number from
    (seed, step). What else is in the batch changes logits only by rounding, and a token only
    where its draw falls into that gap: very rarely in float32, now and then in bfloat16.

    Args:
        model: a folder, a hub id, `demo:NAME`, or a loaded model (which stays the caller's).
        sampling: how tokens are drawn.
        max_model_len: a shorter context than the model's own.
        dtype, device, revision, trust_remote_code: for loading; `auto` is float32 on CPU.
        max_rows: most different sequences in a batch. Requests that have the same tokens so far
            are one of them; they part when their draws differ.
        cache_bytes: memory for keys and values; by default a share of what is free.
        tokens: the tokens that distributions are over; None for all rows of the output layer.

    Raises:
        ModelError: the model cannot be loaded.
        UsageError: a longer context than the model has.
    """

    name = "transformers"

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module,
        *,
        sampling: SamplingSettings | None = None,
        max_model_len: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_rows: int = 1024,
        cache_bytes: int | None = None,
        tokens: EventSpace | None = None,
    ) -> None:
        self.sampling = sampling or SamplingSettings()
        self.usage = EngineUsage()
        self.max_rows = max_rows
        self._stack = ExitStack()
        if isinstance(model, torch.nn.Module):
            # The caller keeps its weights; a GPU's memory for keys and values is given back.
            self._stack.callback(model_let_go, 0, next(model.parameters()).device.type)
        else:
            model = self._stack.enter_context(
                loaded_model(
                    os.fspath(model),
                    revision=revision,
                    dtype=dtype,
                    device=device,
                    trust_remote_code=trust_remote_code,
                )
            )
        self._call = ModelCall(model)
        self._stack.callback(attention.restore, model, attention.install(model))
        config = self._call.config
        self.limits = ModelLimits(
            vocab_size=self._call.vocab_size,
            max_model_len=context_length(
                configured_length(config), max_model_len, type(model).__name__
            ),
        )
        self._store: Any = choose_store(self._call)
        # Stores are compared on all logits, so only then are these cut.
        self._stack.enter_context(only(model, tokens))
        self._batch = Batch(self.sampling.stop_token_ids)
        self._waiting: list[Job] = []
        self._cache_bytes = cache_bytes or _free_bytes(self._call.device)
        self.usage.extra["store"] = type(self._store).__name__

    @property
    def room(self) -> int:
        """How many more requests it can make use of now; see Engine."""
        if len(self._waiting) >= self.max_rows:
            return 0
        return _WINDOW_BATCHES * self.max_rows - len(self._waiting)

    def logprobs(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability (natural log, temperature 1) of each token from `start` on."""
        self._check_open()
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            self.limits.check_sequence(index, ids, start)
        return sequence_logprobs(self._call, sequences, starts)

    def _start(self, requests: Sequence[Request]) -> None:
        """Let requests wait, sorted so that shared prefixes sit together."""
        waiting = self._waiting
        if not self._busy:
            self._reset()  # the sampling settings may be others now
        waiting += [Job(request) for request in requests]
        if self._store.joins_running:
            waiting.sort(key=lambda job: job.sequence, reverse=True)
        else:
            waiting.sort(key=lambda job: (len(job.sequence), job.sequence), reverse=True)

    def _advance(self) -> list[tuple[Any, Completion]]:
        """Let waiting requests in as far as it is worth it, and draw a token for each."""
        begin = time.perf_counter()
        began_with = self._store.prefilled_tokens
        done: list[tuple[Any, Completion]] = []
        try:
            self._refill()
            advance = self._batch.advance(self._draw(), self._row_limit())
            done = advance.done
            self._waiting += advance.paused
            if len(advance.source_F):
                self._store.fork(advance.source_F, advance.target_F)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            self._halve(error)
        self.usage.prefilled_tokens += self._store.prefilled_tokens - began_with
        self.usage.add_seconds(time.perf_counter() - begin)
        if not self._busy:
            self._reset()  # what the store holds is memory
        return done

    def _drop(self) -> None:
        self._waiting.clear()
        self._reset()

    def _free(self) -> None:
        """Free the model, unless the caller owns it."""
        self._waiting.clear()
        self._batch = Batch(())
        del self._store, self._call
        self._stack.close()

    @property
    def _busy(self) -> bool:
        return bool(self._waiting) or self._batch.num_jobs > 0

    def _reset(self) -> None:
        """Forget all rows."""
        self._batch = Batch(self.sampling.stop_token_ids)
        self._store.relayout(np.zeros(0, dtype=np.int64), [])

    def _draw(self) -> npt.NDArray[np.int64]:
        batch = self._batch
        logits_BV = self._store.step(batch.next_B)
        try:
            return draw(logits_BV, batch.row_J, batch.seed_J, batch.step_J, self.sampling)
        except NotNumbersError as error:
            raise NotNumbersError(batch.key_J[error.index or 0], error.place) from None

    def _refill(self) -> None:
        """Compact idle rows away and let waiting jobs in, if that is worth a new layout."""
        batch, waiting = self._batch, self._waiting
        busy = batch.num_busy_rows
        idle = batch.num_rows - busy
        worth = _REFILL_SHARE * max(batch.num_rows, 1)
        free = self.max_rows - min(batch.num_jobs, busy + self.max_rows // _PARTING_ROOM)
        if (
            busy
            and idle < worth
            and free < worth
            and not self._too_big(batch.num_rows, batch.longest())
        ):
            return  # whoever is let in, it is too little
        entering, new_rows = self._admit(busy)
        if not (busy == 0 or idle >= worth or new_rows >= worth):
            waiting += reversed(entering)
            entering = []
            if not self._too_big(batch.num_rows, batch.longest()):
                return
        keep = batch.compact()
        if self._store.joins_running and self._too_big(len(keep), batch.longest()):
            # Rows have grown beyond the memory: the last to come wait for their turn again.
            share = max(1, self._most_rows(batch.longest() + 1))
            waiting += batch.pause(np.arange(share, len(keep)))
            keep = keep[batch.compact()]
        self._store.relayout(keep, batch.add(entering))

    def _admit(self, busy: int) -> tuple[list[Job], int]:
        """Take from the end of those waiting what may enter; return it and the rows it needs."""
        waiting = self._waiting
        if busy and not self._store.joins_running:
            return [], 0
        entering: list[Job] = []
        jobs, rows = self._batch.num_jobs, busy
        longest = self._batch.longest() if busy else 0
        last: tuple[int, ...] = ()
        while waiting:
            job = waiting[-1]
            sequence = job.sequence
            length = len(sequence)
            jobs, rows = jobs + 1, rows + (sequence != last)
            room = min(_ROOM_TOKENS, job.request.max_tokens)
            if not self._store.joins_running:
                room = job.request.max_tokens  # such a batch cannot be cut down later
                if entering and length != len(last):
                    break
            if not self._fits(jobs, rows, max(longest, length) + room):
                break
            longest, last = max(longest, length), sequence
            entering.append(waiting.pop())
        return entering, len({job.sequence for job in entering})

    def _fits(self, jobs: int, rows: int, longest: int) -> bool:
        """Whether so many jobs may run in so many rows, now and after they have parted."""
        if jobs > self.max_rows and rows > self.max_rows // _PARTING_ROOM:
            return False
        if jobs > self.max_rows * _MOST_SHARED:
            return False
        apart = rows if self._store.joins_running else jobs
        return apart <= 1 or not self._too_big(apart, longest)

    def _row_limit(self) -> int:
        """Most rows after this step; what would need more is paused."""
        return max(1, min(self.max_rows, self._most_rows(self._batch.longest() + 1)))

    def _too_big(self, rows: int, longest: int) -> bool:
        return bool(self._store.cells(rows, longest) > self._cache_bytes)

    def _most_rows(self, longest: int) -> int:
        """Most rows of that length that there is memory for."""
        spare, many = self._store.cells(0, longest), self._store.cells(64, longest)
        if many == 0:  # nothing is kept
            return self.max_rows
        return int((self._cache_bytes - spare) * 64 // (many - spare))

    def _halve(self, error: BaseException) -> None:
        """After an out-of-memory, put everything back and go on with half the rows.

        Raises:
            EngineError: a single row does not fit.
        """
        used = self._batch.num_rows
        if used <= 1:
            raise EngineError(
                "out of memory with a single sequence.",
                "Use --dtype bfloat16, shorter responses (--max-tokens), or a larger device.",
            ) from error
        self._waiting += reversed(self._batch.pause())
        self.max_rows = max(1, used // 2)
        self._cache_bytes = min(self._cache_bytes, self._store.cells(used, self._batch.longest()))
        self.usage.extra["max_rows"] = self.max_rows
        device = self._call.device.type
        self._reset()
        free_memory(device)


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other failures; torch on CPU has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free_bytes(device: torch.device) -> int:
    """Return the memory that keys and values may take: less than what is free, by a margin."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.6)
    # A new layout holds a layer twice, and several processes may share the machine.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(free * 0.25, 8 * 2**30))
