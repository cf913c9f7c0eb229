"""Shards done by the workers of a Ray cluster, each with a model or an engine of its own.

Workers write their tables to the run's folder themselves, whole or not at all, as a local run
does; what travels through Ray is the run's settings, shard names and counts. A shard whose worker
died is done again by a fresh one: nothing of it is there, or all of it, and its numbers are the
same, since every draw depends on the run's seed and the shard's contents alone. On CPU the last
bits of a matrix product depend on the number of threads: workers have the driver's
OMP_NUM_THREADS if it is set, else an equal share of the cores.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.errors import EngineError
from gradalign.executors.base import note_engine_starts
from gradalign.executors.cluster import open_cluster
from gradalign.executors.worker import Outcome, Tidings
from gradalign.executors.workers import ATTEMPTS, Workers, error_of
from gradalign.order import stages
from gradalign.progress import Reporter, StageProgress
from gradalign.stages.base import Run, Stage
from gradalign.store.manifest import RunLog, Timer

POLL_SECONDS = 0.5


class RayExecutor:
    """Keeps up to `num_workers` workers busy; they pull shards as they get free.

    Args:
        config: the run's; `num_workers`, `gpus_per_worker` and `engine_args` are looked at.
    """

    def __init__(self, config: ScoreConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._workers: Workers | None = None

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers, and the cluster if it was started for this run."""
        self._workers = None
        self._stack.close()

    def run_stage(self, stage: Stage, run: Run, log: RunLog, reporter: Reporter) -> None:
        """Do every shard of a stage that is not there yet; see Executor."""
        shards = run.shards()
        pending = [shard for shard in shards if not stage.done(run, shard)]
        if not pending:
            return
        if self._workers is None:
            cluster = self._stack.enter_context(open_cluster(self._config, reporter))
            self._workers = Workers(cluster, run, self._config.num_workers, reporter)
            self._stack.callback(self._workers.close)
        timer = Timer()
        num_done = len(shards) - len(pending)
        with reporter.stage(stage.name, stage.unit, len(shards), num_done) as progress:
            work = _StageWork(self._workers, stages(run).index(stage), stage.name)
            try:
                for outcome in work.do(pending, progress):
                    log.add_stage(
                        stage.name,
                        stage.kind,
                        timer.seconds,
                        outcome.counts,
                        model_seconds=outcome.model_seconds,
                        opening_seconds=outcome.opening_seconds,
                        worker_seconds=outcome.seconds,
                    )
                    note_engine_starts(outcome.engine_starts, log, reporter)
                    timer = Timer()
                    progress.finish_shard()
                self._workers.close_stage()
            except BaseException:
                self._workers.kill_all()  # none is left at work, whatever went wrong
                raise


@dataclass(frozen=True)
class _Task:
    """What a worker is at.

    Attributes:
        actor: the worker.
        shard: what it was asked for.
        ahead: what it will be asked for next, and may begin with.
    """

    actor: Any
    shard: str
    ahead: str | None


class _StageWork:
    """One stage on its way: which worker has which shard."""

    def __init__(self, workers: Workers, number: int, name: str) -> None:
        self._workers = workers
        self._cluster = workers.cluster
        self._number, self._name = number, name
        self._queue: deque[str] = deque()
        self._running: dict[Any, _Task] = {}
        self._failed: Counter[str] = Counter()

    def do(self, pending: list[str], progress: StageProgress) -> Iterator[Outcome]:
        """Yield each shard's outcome as it is done.

        Raises:
            GradalignError: of a shard, or that workers keep dying of one.
        """
        self._queue.extend(pending)
        bar = _Bar(self._workers, progress)
        while self._queue or self._running:
            self._workers.want(len(self._queue))
            while self._queue and (actor := self._workers.take()) is not None:
                self._start(actor, self._queue.popleft())
            for reference in self._workers.wait(list(self._running), POLL_SECONDS):
                task = self._running.pop(reference)
                outcome = self._outcome(reference, task)
                if outcome is None:
                    bar.drop(task.shard)
                    self._queue.extendleft(filter(None, (task.ahead, task.shard)))
                    continue
                if task.ahead is not None:
                    self._start(task.actor, task.ahead)
                else:
                    self._workers.give_back(task.actor)
                bar.finish(task.shard, outcome.units)
                yield outcome
            bar.update()

    def _start(self, actor: Any, shard: str) -> None:
        ahead = self._reserve(shard)
        reference = actor.work.remote(self._number, shard, ahead)
        self._running[reference] = _Task(actor, shard, ahead)

    def _reserve(self, shard: str) -> str | None:
        """Keep the next shard for the worker of this one, unless others would have too little.

        Shards that have failed are done alone, so that it is known which one does it.
        """
        if len(self._queue) < self._workers.number:
            return None
        if self._failed[shard] or self._failed[self._queue[0]]:
            return None
        return self._queue.popleft()

    def _outcome(self, reference: Any, task: _Task) -> Outcome | None:
        """Return a shard's outcome, None if it is to be tried again."""
        outcome: Outcome | None = self._cluster.result(reference)
        if outcome is not None and outcome.failure is None:
            return outcome
        engine_failed = outcome is not None and _is_engine_failure(outcome)
        if outcome is not None and not engine_failed:
            raise error_of(outcome)
        self._workers.discard(task.actor)
        self._failed[task.shard] += 1
        if self._failed[task.shard] < ATTEMPTS:
            return None
        if outcome is not None:
            raise error_of(outcome)
        raise EngineError(
            f"{self._name}, {task.shard}: the worker died {ATTEMPTS} times. The last time: "
            f"{self._cluster.last_death}",
            "Finished shards are kept. If it was killed for lack of memory, use fewer workers per "
            "node, a smaller --shard-size or a smaller --batch-tokens, and run the same command "
            "again.",
        )


class _Bar:
    """One bar for all workers: the finished shards and the parts of those under way."""

    def __init__(self, workers: Workers, progress: StageProgress) -> None:
        self._cluster, self._board = workers.cluster, workers.board
        self._progress = progress
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


def _is_engine_failure(outcome: Outcome) -> bool:
    return outcome.failure is not None and "EngineError" in outcome.failure.kinds
