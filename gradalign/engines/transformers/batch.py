"""The book-keeping of a running batch: who decodes in which row, and what came out so far.

Requests that have the same tokens so far have the same next-token distribution: they share a row
of the model, and part when their draws differ. Axes: _J jobs, _B rows, _F forks, _T tokens drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.base import Completion, FinishReason
from gradalign.engines.requests import Request

Ints = npt.NDArray[np.int64]

_TOKEN_BITS = 32


@dataclass
class Job:
    """A request on its way, also across a pause when memory ran out.

    Attributes:
        request: what was asked for.
        token_ids: what has been drawn in earlier stays in the batch.
    """

    request: Request
    token_ids: list[int] = field(default_factory=list)

    @property
    def sequence(self) -> tuple[int, ...]:
        """Everything that the next token is conditioned on."""
        prompt = self.request.prompt_ids
        return (*prompt, *self.token_ids) if self.token_ids else prompt


@dataclass(frozen=True)
class Advance:
    """What became of a batch when each of its jobs drew a token.

    Attributes:
        done: (key of the request, its completion) of the jobs that finished.
        source_F, target_F: rows whose jobs drew different tokens, and for each token but one the
            row that is to go on as their copy: an idle one or, in order, one more.
        paused: jobs that there was no row left for.
    """

    done: list[tuple[Any, Completion]]
    source_F: Ints
    target_F: Ints
    paused: list[Job]


class Batch:
    """Jobs in the rows of a batch.

    Args:
        stop_token_ids: tokens that end a response.

    Attributes:
        next_B: the token that each row is to be fed next.
    """

    def __init__(self, stop_token_ids: Sequence[int]) -> None:
        self._stop = np.array(sorted(stop_token_ids), dtype=np.int64)
        self._jobs = np.zeros(0, dtype=np.object_)
        self._seed_J = np.zeros(0, dtype=np.uint64)
        self._step_J = np.zeros(0, dtype=np.int64)
        self._limit_J = np.zeros(0, dtype=np.int64)
        self._row_J = np.zeros(0, dtype=np.int64)
        self._alive_J = np.zeros(0, dtype=np.bool_)
        # Tokens of the running stay, [J, capacity]; a job's own end at step - joined.
        self._joined_J = np.zeros(0, dtype=np.int64)
        self._token_JT = np.zeros((0, 0), dtype=np.int32)
        self._length_B = np.zeros(0, dtype=np.int64)
        self.next_B = np.zeros(0, dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows, idle ones included."""
        return len(self._length_B)

    @property
    def num_busy_rows(self) -> int:
        """Rows that some job is in."""
        return len(np.unique(self._row_J[self._alive_J]))

    @property
    def num_jobs(self) -> int:
        """Jobs that are not finished."""
        return int(self._alive_J.sum())

    @property
    def seed_J(self) -> npt.NDArray[np.uint64]:
        """The seed of each unfinished job."""
        return self._seed_J[self._alive_J]

    @property
    def step_J(self) -> Ints:
        """How many tokens each unfinished job has drawn."""
        return self._step_J[self._alive_J]

    @property
    def row_J(self) -> Ints:
        """The row of each unfinished job."""
        return self._row_J[self._alive_J]

    @property
    def key_J(self) -> list[Any]:
        """The key of each unfinished job's request."""
        return [job.request.key for job in self._jobs[self._alive_J]]

    def longest(self) -> int:
        """Return the number of tokens in the longest row."""
        return int(self._length_B.max(initial=0))

    def compact(self) -> Ints:
        """Drop finished jobs and idle rows; return which rows stay."""
        alive = self._alive_J
        self._jobs = self._jobs[alive]
        for name in ("seed", "step", "limit", "row", "joined"):
            setattr(self, f"_{name}_J", getattr(self, f"_{name}_J")[alive])
        self._token_JT = self._token_JT[alive]
        self._alive_J = alive[alive]
        keep, self._row_J = np.unique(self._row_J, return_inverse=True)
        self._length_B, self.next_B = self._length_B[keep], self.next_B[keep]
        return keep

    def add(self, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
        """Let jobs in.

        Returns:
            For each new row what it has to remember: all tokens but the last, which is fed next.
        """
        sequences = list(dict.fromkeys(job.sequence for job in jobs))
        row_of = {ids: self.num_rows + row for row, ids in enumerate(sequences)}
        new = np.empty(len(jobs), dtype=np.object_)
        new[:] = jobs
        steps = [len(job.token_ids) for job in jobs]
        seeds = np.array([job.request.seed for job in jobs], dtype=np.uint64)
        self._jobs = np.concatenate([self._jobs, new])
        self._seed_J = np.concatenate([self._seed_J, seeds])
        self._step_J = _append(self._step_J, steps)
        self._joined_J = _append(self._joined_J, steps)
        self._limit_J = _append(self._limit_J, [job.request.max_tokens for job in jobs])
        self._row_J = _append(self._row_J, [row_of[job.sequence] for job in jobs])
        self._alive_J = np.concatenate([self._alive_J, np.ones(len(jobs), dtype=np.bool_)])
        self._token_JT = np.pad(self._token_JT, ((0, len(jobs)), (0, 0)))
        self._length_B = _append(self._length_B, [len(ids) for ids in sequences])
        self.next_B = _append(self.next_B, [ids[-1] for ids in sequences])
        return [ids[:-1] for ids in sequences]

    def advance(self, token_J: Ints, most_rows: int) -> Advance:
        """Give every unfinished job the token that it drew.

        Args:
            token_J: in the order of `row_J`.
            most_rows: jobs that would need more rows than this are paused.
        """
        live = np.flatnonzero(self._alive_J)
        self._write(live, token_J)
        self._step_J[live] += 1
        self._length_B += 1
        stopped = np.isin(token_J, self._stop)
        over = stopped | (self._step_J[live] >= self._limit_J[live])
        done = [
            self._completion(job, "stop" if stop else "length")
            for job, stop in zip(live[over], stopped[over], strict=True)
        ]
        self._alive_J[live[over]] = False
        going = live[~over]
        source_F, target_F, left_out = self._part(going, token_J[~over], most_rows)
        paused = self._pause(left_out)
        return Advance(done, source_F, target_F, paused)

    def pause(self, rows: Ints | None = None) -> list[Job]:
        """Take the unfinished jobs of some rows (of all) out; return them as they now stand."""
        chosen = self._alive_J
        if rows is not None:
            chosen = chosen & np.isin(self._row_J, rows)
        return self._pause(np.flatnonzero(chosen))

    def _part(self, going: Ints, token_G: Ints, most_rows: int) -> tuple[Ints, Ints, Ints]:
        """Put jobs that drew different tokens into rows of their own."""
        count = self.num_rows
        pairs, group_G = np.unique(
            (self._row_J[going] << _TOKEN_BITS) | token_G, return_inverse=True
        )
        source, token = pairs >> _TOKEN_BITS, pairs & ((1 << _TOKEN_BITS) - 1)
        # The first token of each row stays in it; the others move, to idle rows as far as they go.
        moves = np.diff(source, prepend=-1) == 0
        movers = np.flatnonzero(moves)
        idle = np.setdiff1d(np.arange(count), source)
        free = np.concatenate([idle, np.arange(count, max(count, most_rows))])
        movers, unplaced = movers[: len(free)], movers[len(free) :]
        target = source.copy()
        target[movers] = free[: len(movers)]
        grown = max(0, len(movers) - len(idle))
        self.next_B = np.pad(self.next_B, (0, grown))
        self._length_B = np.pad(self._length_B, (0, grown))
        self._length_B[target[movers]] = self._length_B[source[movers]]
        placed = np.ones(len(pairs), dtype=np.bool_)
        placed[unplaced] = False
        self.next_B[target[placed]] = token[placed]
        self._row_J[going] = target[group_G]
        return source[movers], target[movers], going[~placed[group_G]]

    def _write(self, live: Ints, token_J: Ints) -> None:
        column_J = self._step_J[live] - self._joined_J[live]
        if int(column_J.max(initial=0)) >= self._token_JT.shape[1]:
            self._token_JT = np.pad(self._token_JT, ((0, 0), (0, 64)))
        self._token_JT[live, column_J] = token_J

    def _pause(self, chosen: Ints) -> list[Job]:
        self._alive_J[chosen] = False
        return [
            Job(job.request, [*job.token_ids, *self._new_tokens(place).tolist()])
            for place, job in zip(chosen, self._jobs[chosen], strict=True)
        ]

    def _new_tokens(self, place: int) -> npt.NDArray[np.int32]:
        return self._token_JT[place, : self._step_J[place] - self._joined_J[place]]

    def _completion(self, place: int, reason: FinishReason) -> tuple[Any, Completion]:
        job, new = self._jobs[place], self._new_tokens(place)
        if job.token_ids:
            new = np.concatenate([np.array(job.token_ids, dtype=np.int32), new])
        return job.request.key, Completion(new.copy(), reason)


def _append(values: Ints, more: Iterable[int]) -> Ints:
    return np.concatenate([values, np.fromiter(more, dtype=np.int64)])
