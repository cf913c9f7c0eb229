"""What an executor is, and how the run's one is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gradalign.config import ScoreConfig
from gradalign.progress import Reporter
from gradalign.stages.base import Run, Stage
from gradalign.store.manifest import RunLog


class Executor(Protocol):
    """Does the shards of stages, somewhere."""

    def run_stage(self, stage: Stage, run: Run, log: RunLog, reporter: Reporter) -> None:
        """Do every shard of a stage that is not there yet, and record it in `log`.

        Raises:
            GradalignError: what went wrong in a shard; finished shards are kept.
        """
        ...


def note_engine_starts(
    starts: Sequence[Mapping[str, Any]], log: RunLog, reporter: Reporter
) -> None:
    """Put openings of the student's engine into run.json, and tell of one that was not meant."""
    log.add_engine_starts(starts)
    for line in dict.fromkeys(start["instead_of"] for start in starts):
        if line:
            reporter.remark(line)


def open_executor(config: ScoreConfig) -> AbstractContextManager[Executor]:
    """Return the executor that a configuration asks for; use it in a with statement.

    Raises:
        MissingDependencyError: `ray` is asked for and not installed.
        UsageError: more workers or GPUs than there are.
    """
    if config.executor == "ray":
        from gradalign.executors.ray import RayExecutor

        return RayExecutor(config)
    from gradalign.executors.local import LocalExecutor

    return LocalExecutor()
