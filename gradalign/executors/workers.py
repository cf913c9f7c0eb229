"""The workers of a Ray run: started, lent, replaced and ended."""

from __future__ import annotations

import os
import time
from typing import Any

from gradalign import errors
from gradalign.errors import EngineError, GradalignError
from gradalign.executors.cluster import Cluster
from gradalign.executors.worker import Outcome, ProgressBoard, Worker, run_to_json
from gradalign.progress import Reporter
from gradalign.stages.base import Run

ATTEMPTS = 3
"""Times that something is tried when workers die of it, or their engines fail."""

CLOSE_SECONDS = 60.0

PATIENCE_SECONDS = 60.0
"""If no worker has come up for so long, the user is told."""


class Workers:
    """Up to `number` worker actors. One that has not come up yet is given nothing to do.

    A cluster may have room for fewer of them than were asked for: those that it has room for
    do everything, and the others join when there is room.

    Args:
        cluster: where they run.
        run: what they work at.
        number: how many there are at most.
        reporter: is told if none comes up.

    Attributes:
        board: the actor that they post their progress to.
    """

    def __init__(self, cluster: Cluster, run: Run, number: int, reporter: Reporter) -> None:
        self.cluster = cluster
        self.number = number
        self.board: Any = cluster.start_helper(ProgressBoard)
        self._arguments = (run_to_json(run), os.getcwd(), self.board)
        self._reporter = reporter
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._busy: list[Any] = []
        self._deaths = 0
        self._alone_since = time.monotonic()

    def want(self, number: int) -> None:
        """See to it that so many more can be lent, as far as that is allowed."""
        there = len(self._starting) + len(self._idle)
        for _ in range(min(number, self.number - len(self._busy)) - there):
            actor = self.cluster.start_worker(Worker, *self._arguments)
            self._starting[actor.ready.remote()] = actor

    def take(self) -> Any | None:
        """Lend an idle worker; None if there is none at the moment."""
        if not self._idle:
            return None
        self._busy.append(self._idle.pop())
        return self._busy[-1]

    def give_back(self, actor: Any) -> None:
        """Take a healthy worker back."""
        self._busy.remove(actor)
        self._idle.append(actor)

    def discard(self, actor: Any) -> None:
        """End a worker that is not to be used again."""
        self._busy.remove(actor)
        self.cluster.kill(actor)

    def wait(self, running: list[Any], seconds: float) -> list[Any]:
        """Return which of the running tasks are finished after at most so long.

        Raises:
            EngineError: workers keep dying before they have come up.
        """
        finished = self.cluster.wait([*running, *self._starting], seconds)
        for reference in finished:
            if reference in self._starting:
                self._welcome(self._starting.pop(reference), reference)
        self._tell_if_alone()
        return [reference for reference in finished if reference in running]

    def close_stage(self) -> None:
        """Have every worker close its stage, so that the next one finds memory free."""
        for actor in list(self._idle):
            outcome = self.cluster.result(actor.close.remote(), timeout=CLOSE_SECONDS)
            if outcome is None:
                self._idle.remove(actor)
                self.cluster.kill(actor)
            elif outcome.failure is not None:
                raise error_of(outcome)

    def kill_all(self) -> None:
        """End every worker, at once."""
        for actor in [*self._busy, *self._idle, *self._starting.values()]:
            self.cluster.kill(actor)
        self._busy.clear()
        self._idle.clear()
        self._starting.clear()

    def close(self) -> None:
        """End every worker and the board."""
        self.kill_all()
        self.cluster.kill(self.board)

    def _welcome(self, actor: Any, reference: Any) -> None:
        if self.cluster.result(reference) is not None:
            self._deaths = 0
            self._idle.append(actor)
            return
        self.cluster.kill(actor)
        self._deaths += 1
        if self._deaths == ATTEMPTS:
            raise EngineError(
                f"{ATTEMPTS} workers died before they had come up. The last one: "
                f"{self.cluster.last_death}",
                "Check the cluster with `ray status` and its logs; every machine needs the same "
                "Python packages as this one.",
            )

    def _tell_if_alone(self) -> None:
        now = time.monotonic()
        if self._busy or self._idle or not self._starting:
            self._alone_since = now
        elif now - self._alone_since > PATIENCE_SECONDS:
            self._alone_since = now
            self._reporter.remark(
                f"ray: no worker has come up for {PATIENCE_SECONDS:g} s; `ray status` shows what "
                "the cluster has and what is asked of it"
            )


def error_of(outcome: Outcome) -> GradalignError:
    """Make the error of a worker again: its class, or the closest that gradalign has."""
    assert outcome.failure is not None
    for kind in outcome.failure.kinds:
        found = getattr(errors, kind, None)
        if isinstance(found, type) and issubclass(found, GradalignError):
            return found(outcome.failure.message, outcome.failure.hint)
    return GradalignError(outcome.failure.message, outcome.failure.hint)
