"""The book-keeping of a running batch: who decodes in which row, and what came out so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradalign.rollouts.base import Completion, FinishReason, Request

Ints = npt.NDArray[np.int64]


@dataclass
class Job:
    """A request on its way, also across a pause when memory ran out.

    Attributes:
        index: the request's number in the caller's order.
        request: what was asked for.
        token_ids: what has been drawn in earlier stays in the batch.
    """

    index: int
    request: Request
    token_ids: list[int] = field(default_factory=list)

    @property
    def sequence(self) -> tuple[int, ...]:
        """Everything that the next token is conditioned on."""
        return (*self.request.prompt_ids, *self.token_ids)


class Rows:
    """Jobs in the rows of a batch, with one array entry each.

    Args:
        stop_token_ids: tokens that end a response.
    """

    def __init__(self, stop_token_ids: Sequence[int]) -> None:
        self._stop = np.array(sorted(stop_token_ids), dtype=np.int64)
        self._clear()

    def _clear(self) -> None:
        self.jobs: list[Job] = []
        self.seed_B = np.zeros(0, dtype=np.uint64)
        self.step_B = np.zeros(0, dtype=np.int64)
        self.limit_B = np.zeros(0, dtype=np.int64)
        self.length_B = np.zeros(0, dtype=np.int64)
        self.next_B = np.zeros(0, dtype=np.int64)
        self.alive_B = np.zeros(0, dtype=np.bool_)
        # Tokens of the running stay, [B, capacity]; a row's own end at step - joined.
        self.joined_B = np.zeros(0, dtype=np.int64)
        self.token_BT = np.zeros((0, 0), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def num_alive(self) -> int:
        """Rows that are not finished."""
        return int(self.alive_B.sum())

    def longest(self) -> int:
        """Return the number of tokens in the longest row."""
        return int(self.length_B.max(initial=0))

    def keep(self, keep: Ints) -> None:
        """Drop all rows but these."""
        self.jobs = [self.jobs[row] for row in keep]
        for name in ("seed", "step", "limit", "length", "next", "alive", "joined"):
            setattr(self, f"{name}_B", getattr(self, f"{name}_B")[keep])
        self.token_BT = self.token_BT[keep]

    def add(self, jobs: Sequence[Job]) -> None:
        """Append a row for each job; its last token so far is the next to be fed."""
        if not jobs:
            return
        steps = [len(job.token_ids) for job in jobs]
        self.jobs += jobs
        self.seed_B = np.append(self.seed_B, np.array([j.request.seed for j in jobs], np.uint64))
        self.step_B = np.append(self.step_B, steps)
        self.joined_B = np.append(self.joined_B, steps)
        self.limit_B = np.append(self.limit_B, [job.request.max_tokens for job in jobs])
        self.length_B = np.append(self.length_B, [len(job.sequence) for job in jobs])
        self.next_B = np.append(self.next_B, [job.sequence[-1] for job in jobs])
        self.alive_B = np.append(self.alive_B, np.ones(len(jobs), dtype=np.bool_))
        self.token_BT = np.pad(self.token_BT, ((0, len(jobs)), (0, 0)))

    def advance(self, token_B: Ints) -> list[tuple[int, Completion]]:
        """Append a drawn token to every living row; return what finished by it."""
        column_B = self.step_B - self.joined_B
        if int(column_B.max(initial=0)) >= self.token_BT.shape[1]:
            self.token_BT = np.pad(self.token_BT, ((0, 0), (0, 64)))
        self.token_BT[np.arange(len(self)), column_B] = token_B
        self.step_B = self.step_B + 1
        self.length_B = self.length_B + 1
        self.next_B = token_B
        stopped_B = np.isin(token_B, self._stop)
        done = np.flatnonzero(self.alive_B & (stopped_B | (self.step_B >= self.limit_B)))
        self.alive_B[done] = False
        return [self._completion(row, "stop" if stopped_B[row] else "length") for row in done]

    def pause(self, rows: Iterable[int]) -> list[Job]:
        """Return jobs that take up the work of these rows; the rows themselves stay."""
        return [
            Job(job.index, job.request, [*job.token_ids, *self._new_tokens(row).tolist()])
            for row, job in ((row, self.jobs[row]) for row in rows)
        ]

    def clear(self) -> None:
        """Drop all rows."""
        self._clear()

    def _new_tokens(self, row: int) -> npt.NDArray[np.int32]:
        return self.token_BT[row, : self.step_B[row] - self.joined_B[row]]

    def _completion(self, row: int, reason: FinishReason) -> tuple[int, Completion]:
        job = self.jobs[row]
        before = np.array(job.token_ids, dtype=np.int32)
        return job.index, Completion(np.concatenate([before, self._new_tokens(row)]), reason)
