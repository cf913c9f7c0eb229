"""What an executor is, and what every one of them notes down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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
