"""The engine's side of the branch stage: one stream of requests from all open questions.

A question starts its next round as soon as its last one is verified, and the shard that is expected
next is begun when the open ones have nothing more to ask for, so that the engine never runs dry
where a round or a shard ends. What is drawn does not depend on it: every request has a seed of its
own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from gradalign.branching import BranchRequest
from gradalign.engines.base import Completion
from gradalign.engines.requests import Request
from gradalign.errors import RunError
from gradalign.models.numbers import naming
from gradalign.stages.base import Run, Tick
from gradalign.stages.branch.flat import flat_watch, look_at
from gradalign.stages.branch.question import QuestionWork
from gradalign.stages.branch.target import Target
from gradalign.stages.student import StudentTools


@dataclass(eq=False)
class ShardWork:
    """A shard on its way.

    Attributes:
        name: the shard's.
        questions: all of its questions.
        num_live: how many of them have a round under way.
        num_done: continuations that were sampled.
        target: decides on further rounds once the planned ones are over, if there is a target.
    """

    name: str
    questions: list[QuestionWork]
    num_live: int = 0
    num_done: int = 0
    target: Target | None = None

    @property
    def num_planned(self) -> int:
        """Continuations to sample at most, if no further rounds are asked for."""
        return sum(item.branching.budget for item in self.questions)


@dataclass(frozen=True, eq=False)
class Asked:
    """The key of what the engine is asked for: which request of which question, in which shard."""

    work: ShardWork
    item: QuestionWork
    request: BranchRequest

    def __str__(self) -> str:
        request = self.request
        return (
            f"{request.number} of node {request.node}, candidate {request.slot} "
            f"(question {self.item.stored.question.id})"
        )


class Rollouts:
    """Makes the continuations of shards, one shard after the other or two at a time.

    Args:
        run: the run.
        tools: the engine and the verifiers.
        plan: from the name of a shard to its questions.
    """

    def __init__(
        self, run: Run, tools: StudentTools, plan: Callable[[str], list[QuestionWork]]
    ) -> None:
        self._run = run
        self._tools = tools
        self._plan = plan
        self._watch = flat_watch(run)
        self._open: dict[str, ShardWork] = {}
        self._expected: str | None = None
        self._queue: deque[Asked] = deque()
        self._received: deque[tuple[Asked, Completion]] = deque()

    def expect(self, shard: str) -> None:
        """Begin with this shard when there is nothing else to ask for."""
        self._expected = shard

    def make(self, shard: str, tick: Tick) -> list[QuestionWork]:
        """Make every continuation that a shard's questions ask for."""
        work = self._begin(shard)
        total = work.num_planned
        while work.num_live:
            self.step()
            tick(min(work.num_done, total), total, 1)
        del self._open[shard]
        return work.questions

    def step(self) -> bool:
        """Take one completion of whichever shard; False if none is on its way."""
        if not any(work.num_live for work in self._open.values()):
            return False
        with naming(f"student {self._run.config.student}", _question):
            while not self._received:
                self._submit()
                self._received.extend(self._tools.engine.receive())
        asked, completion = self._received.popleft()
        work, item, request = asked.work, asked.item, asked.request
        work.num_done += 1
        item.arrived[request] = (completion.token_ids, completion.finish_reason)
        if len(item.arrived) == len(item.open_requests):
            self._close_round(item)
            self._open_round(work, item)
            self._go_on(work)
        return True

    def _submit(self) -> None:
        """Ask for as much as the engine has room for; begin with the expected shard for it."""
        room = self._tools.engine.room
        requests: list[Request] = []
        while len(requests) < room:
            if not self._queue and self._expected is not None:
                expected, self._expected = self._expected, None
                with suppress(RunError):  # it is raised again when that shard is asked for
                    self._begin(expected)
            if not self._queue:
                break
            asked = self._queue.popleft()
            requests.append(asked.item.ask(asked.request, self._run, asked))
        self._tools.engine.submit(requests)

    def _begin(self, shard: str) -> ShardWork:
        """Return an open shard; open it if it is not."""
        if shard not in self._open:
            work = self._open[shard] = ShardWork(shard, self._plan(shard))
            self._open_rounds(work)
            self._go_on(work)
        return self._open[shard]

    def _go_on(self, work: ShardWork) -> None:
        """Ask for further rounds if all planned ones are over and the target is not met."""
        if self._run.config.target_se is None:
            return
        while not work.num_live:
            work.target = work.target or Target(self._run, work.name, work.questions)
            if not work.target.extend():
                return
            self._open_rounds(work)

    def _open_rounds(self, work: ShardWork) -> None:
        work.num_live = len(work.questions)
        for item in work.questions:
            self._open_round(work, item)

    def _open_round(self, work: ShardWork, item: QuestionWork) -> None:
        """Queue a question's next round; rounds without anything to sample end at once."""
        while True:
            item.open_requests = item.branching.next_requests()
            if not item.open_requests:
                work.num_live -= 1
                return
            item.arrived = {
                request: (np.zeros(0, dtype=np.int32), self._forced_reason(item, request))
                for request in item.open_requests
                if request.finished
            }
            self._queue.extend(
                Asked(work, item, request) for request in item.open_requests if not request.finished
            )
            if len(item.arrived) < len(item.open_requests):
                return
            self._close_round(item)

    def _forced_reason(self, item: QuestionWork, request: BranchRequest) -> str:
        """Tell a forced stop token from a candidate forced at the last position."""
        last = int(item.branching.prefix(request)[-1])
        return "forced" if last in self._run.resolved.stop_token_ids else "length"

    def _close_round(self, item: QuestionWork) -> None:
        """Verify a round's responses, and stop a run in which nothing depends on what is forced."""
        item.close_round(self._tools)
        branching = item.branching
        if self._watch is not None and branching.round_index == 0 and branching.round_is_over:
            look_at(self._watch, item)


def _question(asked: Asked) -> str:
    return asked.item.stored.question.id
