"""One process, one shard after the other; what the stage holds is opened once."""

from __future__ import annotations

from itertools import zip_longest
from types import TracebackType

from gradalign.executors.base import note_engine_starts
from gradalign.executors.heap import frozen_heap
from gradalign.progress import Reporter
from gradalign.runtime import model_seconds
from gradalign.stages.base import Run, Stage, announce
from gradalign.stages.preparation.identity import check_models
from gradalign.store.manifest import RunLog, Timer


class LocalExecutor:
    """Works in this process."""

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to close: a stage closes what it opened, and the run what it keeps."""

    def run_stage(self, stage: Stage, run: Run, log: RunLog, reporter: Reporter) -> None:
        """Do every shard of a stage that is not there yet; see Executor."""
        shards = run.shards()
        pending = [shard for shard in shards if not stage.done(run, shard)]
        if not pending:
            return
        check_models(run, log.data["models"])
        timer = Timer()
        num_done = len(shards) - len(pending)
        with (
            reporter.stage(stage.name, stage.unit, len(shards), num_done) as progress,
            stage.session(run) as work,
            frozen_heap(),
        ):
            opening = timer.seconds
            note_engine_starts(run.student_engine.taken_starts(), log, reporter)
            check_models(run, log.data["models"])  # they may have been changed while they were read
            for shard, following in zip_longest(pending, pending[1:]):
                announce(work, following)
                before = model_seconds()
                counts = work(shard, progress.shard)
                spent = model_seconds() - before
                log.add_stage(
                    stage.name,
                    stage.kind,
                    timer.seconds,
                    counts,
                    model_seconds=spent,
                    opening_seconds=opening,
                )
                timer, opening = Timer(), 0.0
                progress.finish_shard()
