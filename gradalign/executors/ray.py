"""Shards done by the workers of a Ray cluster, each with a model or an engine of its own.

Workers write their tables to the run's folder themselves, whole or not at all, as a local run
does; what travels through Ray is the run's settings, shard names and counts. A shard whose worker
died is done again by a fresh one: nothing of it is there, or all of it, and its numbers are the
same, since every draw depends on the run's seed and the shard's contents alone. On CPU the last
bits of a matrix product depend on the number of threads: workers have the driver's
OMP_NUM_THREADS if it is set, else an equal share of the cores.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from gradalign import errors
from gradalign.config import ScoreConfig
from gradalign.errors import EngineError, GradalignError
from gradalign.executors.cluster import Cluster, open_cluster
from gradalign.executors.worker import Outcome, ProgressBoard, Tidings, Worker, run_to_json
from gradalign.progress import Reporter, StageProgress
from gradalign.runlog import RunLog, Timer
from gradalign.stages.base import Run, Stage
from gradalign.stages.order import stages

ATTEMPTS = 3
"""Times that a shard is tried when workers die of it, or their engines fail."""

POLL_SECONDS = 0.5
CLOSE_SECONDS = 60.0


class RayExecutor:
    """Keeps up to `num_workers` workers busy; they pull shards as they get free.

    Args:
        config: the run's; `num_workers`, `gpus_per_worker` and `engine_args` are looked at.
    """

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._board: Any = None
        self._idle: list[Any] = []

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers, and the cluster if it was started for this run."""
        if self._cluster is not None:
            for actor in [*self._idle, self._board]:
                self._cluster.kill(actor)
        self._idle.clear()
        self._cluster = None
        self._stack.close()

    def run_stage(self, stage: Stage, run: Run, log: RunLog, reporter: Reporter) -> None:
        """Do every shard of a stage that is not there yet; see Executor."""
        shards = run.shards()
        pending = [shard for shard in shards if not stage.done(run, shard)]
        if not pending:
            return
        if self._cluster is None:
            self._cluster = self._stack.enter_context(open_cluster(self._config, reporter))
            self._board = self._cluster.start_helper(ProgressBoard)
        timer = Timer()
        num_done = len(shards) - len(pending)
        with (
            reporter.stage(stage.name, stage.unit, len(shards), num_done) as progress,
            self._workers(run, self._cluster) as workers,
        ):
            work = _StageWork(self._cluster, workers, self._board, _number(stage, run), stage.name)
            for outcome in work.do(pending, progress):
                log.add_stage(
                    stage.name,
                    timer.seconds,
                    outcome.counts,
                    model_seconds=outcome.model_seconds,
                    opening_seconds=outcome.opening_seconds,
                    worker_seconds=outcome.seconds,
                )
                timer = Timer()
                progress.finish_shard()
            work.close()

    @contextmanager
    def _workers(self, run: Run, cluster: Cluster) -> Iterator[_Workers]:
        """Hold the workers of a stage; whatever goes wrong, none is left at work."""
        workers = _Workers(cluster, run, self._board, self._config.num_workers, self._idle)
        try:
            yield workers
        except BaseException:
            workers.kill_all()
            raise
        self._idle = workers.release()


class _Workers:
    """Starts, lends and replaces worker actors."""

    def __init__(
        self, cluster: Cluster, run: Run, board: Any, number: int, idle: list[Any]
    ) -> None:
        self._cluster = cluster
        self._arguments = (run_to_json(run), os.getcwd(), board)
        self._number = number
        self._idle = idle
        self._busy: list[Any] = []

    @property
    def free(self) -> bool:
        """Whether another worker can be lent."""
        return len(self._busy) < self._number

    def take(self) -> Any:
        """Lend a worker; one is started if none is idle."""
        actor = (
            self._idle.pop() if self._idle else self._cluster.start_worker(Worker, *self._arguments)
        )
        self._busy.append(actor)
        return actor

    def give_back(self, actor: Any) -> None:
        """Take a healthy worker back."""
        self._busy.remove(actor)
        self._idle.append(actor)

    def discard(self, actor: Any) -> None:
        """End a worker that is not to be used again."""
        self._busy.remove(actor)
        self._cluster.kill(actor)

    def release(self) -> list[Any]:
        """Return the idle workers, for the next stage."""
        return self._idle

    def everyone(self) -> list[Any]:
        """Return the idle workers."""
        return list(self._idle)

    def forget(self, actor: Any) -> None:
        """Drop an idle worker that has died."""
        self._idle.remove(actor)
        self._cluster.kill(actor)

    def kill_all(self) -> None:
        """End every worker, at once."""
        for actor in [*self._busy, *self._idle]:
            self._cluster.kill(actor)
        self._busy.clear()
        self._idle.clear()


class _StageWork:
    """One stage on its way: which worker has which shard."""

    def __init__(
        self, cluster: Cluster, workers: _Workers, board: Any, number: int, name: str
    ) -> None:
        self._cluster, self._workers, self._board = cluster, workers, board
        self._number, self._name = number, name
        self._running: dict[Any, tuple[Any, str]] = {}
        self._failed: Counter[str] = Counter()

    def do(self, pending: list[str], progress: StageProgress) -> Iterator[Outcome]:
        """Yield each shard's outcome as it is done.

        Raises:
            GradalignError: of a shard, or that workers keep dying of one.
        """
        queue = deque(pending)
        bar = _Bar(self._cluster, self._board, progress)
        while queue or self._running:
            while queue and self._workers.free:
                self._start(queue.popleft())
            for task in self._cluster.wait(list(self._running), POLL_SECONDS):
                actor, shard = self._running.pop(task)
                outcome = self._outcome(task, actor, shard)
                if outcome is None:
                    bar.drop(shard)
                    queue.appendleft(shard)
                    continue
                self._workers.give_back(actor)
                bar.finish(shard, outcome.units)
                yield outcome
            bar.update()

    def close(self) -> None:
        """Have every worker close the stage, so that the next one finds memory free."""
        for actor in self._workers.everyone():
            outcome = self._cluster.result(actor.close.remote(), timeout=CLOSE_SECONDS)
            if outcome is None:
                self._workers.forget(actor)
            elif outcome.failure is not None:
                raise _error(outcome)

    def _start(self, shard: str) -> None:
        actor = self._workers.take()
        self._running[actor.work.remote(self._number, shard)] = (actor, shard)

    def _outcome(self, task: Any, actor: Any, shard: str) -> Outcome | None:
        """Return a shard's outcome, None if it is to be tried again."""
        outcome: Outcome | None = self._cluster.result(task)
        if outcome is not None and outcome.failure is None:
            return outcome
        engine_failed = outcome is not None and _is_engine_failure(outcome)
        if outcome is not None and not engine_failed:
            raise _error(outcome)
        self._workers.discard(actor)
        self._failed[shard] += 1
        if self._failed[shard] < ATTEMPTS:
            return None
        if outcome is not None:
            raise _error(outcome)
        raise EngineError(
            f"{self._name}, {shard}: the worker died {ATTEMPTS} times. The last time: "
            f"{self._cluster.last_death}",
            "Finished shards are kept. If it was killed for lack of memory, use fewer workers per "
            "node, a smaller --shard-size or a smaller --batch-tokens, and run the same command "
            "again.",
        )


class _Bar:
    """One bar for all workers: the finished shards and the parts of those under way."""

    def __init__(self, cluster: Cluster, board: Any, progress: StageProgress) -> None:
        self._cluster, self._board, self._progress = cluster, board, progress
        self._asked: Any = None
        self._parts: dict[str, Tidings] = {}
        self._over: set[str] = set()

    def update(self) -> None:
        """Show what workers have posted; never waits for it."""
        if self._asked is None:
            self._asked = self._board.take.remote()
        if not self._cluster.wait([self._asked], 0.0):
            return
        posted: dict[str, Tidings] = self._cluster.result(self._asked) or {}
        self._asked = None
        for shard, tidings in posted.items():
            if shard not in self._over:
                before = self._parts.get(shard, Tidings(0, 1, 0))
                self._parts[shard] = tidings
                self._show(max(tidings.units - before.units, 0))

    def finish(self, shard: str, units: int) -> None:
        """Show the rest of a finished shard."""
        before = self._parts.pop(shard, Tidings(0, 1, 0))
        self._over.add(shard)
        self._show(max(units - before.units, 0))

    def drop(self, shard: str) -> None:
        """Forget how far a shard was whose worker died."""
        self._parts.pop(shard, None)

    def _show(self, new_units: int) -> None:
        share = sum(part.done / max(part.total, 1) for part in self._parts.values())
        self._progress.shard(int(1000 * share), 1000, new_units)


def _number(stage: Stage, run: Run) -> int:
    """Return a stage's place among the run's: workers make the same list."""
    names = [item.name for item in stages(run)]
    places = [
        place
        for place, item in enumerate(stages(run))
        if type(item) is type(stage) and vars(item) == vars(stage)
    ]
    if len(places) != 1:
        raise ValueError(f"stage {stage.name!r} is not one of the run's {names}")
    return places[0]


def _is_engine_failure(outcome: Outcome) -> bool:
    return outcome.failure is not None and "EngineError" in outcome.failure.kinds


def _error(outcome: Outcome) -> GradalignError:
    """Make the error of a worker again: its class, or the closest that gradalign has."""
    assert outcome.failure is not None
    for kind in outcome.failure.kinds:
        found = getattr(errors, kind, None)
        if isinstance(found, type) and issubclass(found, GradalignError):
            return found(outcome.failure.message, outcome.failure.hint)
    return GradalignError(outcome.failure.message, outcome.failure.hint)
