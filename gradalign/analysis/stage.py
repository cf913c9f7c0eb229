"""The last stage of a run: tables of nodes from tables of nodes. Arrays only, no model.

The views of a shard are built once and handed to every writer whose tables are not there yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gradalign.analysis.node_views import ShardViews
from gradalign.stages.base import Run, StageKind, Tick, Work


class TableWriter(Protocol):
    """Makes one or more tables of a shard's nodes. Writers of equal fields are equal."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's tables are there."""
        ...

    def write(self, views: ShardViews) -> Counter[str]:
        """Write the shard's tables; return counts for run.json."""
        ...


@dataclass(frozen=True)
class Analysis:
    """Directions, alignment and diagnostics of every node.

    Attributes:
        writers: what is to be written, in this order.
    """

    kind: ClassVar[StageKind] = "analysis"
    name: ClassVar[str] = "align"
    unit: ClassVar[str] = "tables"
    writers: tuple[TableWriter, ...]

    def done(self, run: Run, shard: str) -> bool:
        """Whether all tables of the shard are there."""
        return all(writer.done(run, shard) for writer in self.writers)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""

        def work(shard: str, tick: Tick) -> Counter[str]:
            views = ShardViews(run, shard)
            missing = [writer for writer in self.writers if not writer.done(run, shard)]
            counts: Counter[str] = Counter()
            for done, writer in enumerate(missing, start=1):
                counts += writer.write(views)
                tick(done, len(missing), 1)
            return counts

        yield work
