"""What a reporter is, and the one that says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class StageProgress(Protocol):
    """Progress of one stage."""

    def shard(self, done: int, total: int, units: int) -> None:
        """Report that `done` of `total` units of the current shard are finished.

        `units` is how many of them are new since the last call.
        """
        ...

    def finish_shard(self) -> None:
        """Report that the current shard's tables are written."""
        ...


class Reporter(Protocol):
    """Where progress and remarks go."""

    def activity(self, text: str) -> None:
        """Say what is being done outside of stages, such as what is imported or opened."""
        ...

    def expect(self, seconds: Mapping[str, float], models: Sequence[str] = ()) -> None:
        """Take the plan.

        Args:
            seconds: by the name of each stage, in order, how long it will likely take.
            models: the names of the run's models, which are shown short.
        """
        ...

    def stage(
        self, name: str, unit: str, num_shards: int, num_done: int
    ) -> AbstractContextManager[StageProgress]:
        """Open a stage of which `num_done` of `num_shards` shards are there already."""
        ...

    def remark(self, text: str) -> None:
        """Print one line."""
        ...


class Quiet:
    """Progress of a stage that nobody looks at."""

    def shard(self, done: int, total: int, units: int) -> None:
        """See StageProgress."""

    def finish_shard(self) -> None:
        """See StageProgress."""


class SilentReporter:
    """Says nothing."""

    def activity(self, text: str) -> None:
        """Drop the line."""

    def expect(self, seconds: Mapping[str, float], models: Sequence[str] = ()) -> None:
        """Drop the plan."""

    @contextmanager
    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> Iterator[Quiet]:
        """Open a stage in silence."""
        yield Quiet()

    def remark(self, text: str) -> None:
        """Drop the line."""
