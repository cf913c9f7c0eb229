"""Telling a person how far a run is: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TextIO

Display = Literal["auto", "rich", "plain", "none"]


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

    def stage(
        self, name: str, unit: str, num_shards: int, num_done: int
    ) -> Any:  # a context manager of StageProgress
        """Open a stage of which `num_done` of `num_shards` shards are there already."""
        ...

    def remark(self, text: str) -> None:
        """Print one line."""
        ...


class _Quiet:
    def shard(self, done: int, total: int, units: int) -> None:
        pass

    def finish_shard(self) -> None:
        pass


class SilentReporter:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> Iterator[_Quiet]:
        """Open a stage in silence."""
        yield _Quiet()

    def remark(self, text: str) -> None:
        """Drop the line."""


class _PlainStage:
    def __init__(self, out: TextIO, name: str, unit: str, num_shards: int, num_done: int) -> None:
        self._out, self._name, self._unit = out, name, unit
        self._num_shards, self._done = num_shards, num_done
        self._units, self._start = 0, time.monotonic()

    def shard(self, done: int, total: int, units: int) -> None:
        self._units += units

    def finish_shard(self) -> None:
        self._done += 1
        seconds = max(time.monotonic() - self._start, 1e-9)
        print(
            f"{self._name}: shard {self._done}/{self._num_shards}, {self._units:,} {self._unit}, "
            f"{self._units / seconds:,.0f}/s",
            file=self._out,
            flush=True,
        )


class PlainReporter:
    """One line per finished shard, for logs."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr

    @contextmanager
    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> Iterator[_PlainStage]:
        """Open a stage; say how many shards are there already."""
        if num_done:
            self.remark(f"{name}: {num_done} of {num_shards} shards are there already")
        yield _PlainStage(self._out, name, unit, num_shards, num_done)

    def remark(self, text: str) -> None:
        """Print the line."""
        print(text, file=self._out, flush=True)


class _RichStage:
    def __init__(self, bar: Any, task: Any, unit: str, num_done: int) -> None:
        self._bar, self._task, self._unit, self._done = bar, task, unit, num_done
        self._units, self._start = 0, time.monotonic()

    def shard(self, done: int, total: int, units: int) -> None:
        self._units += units
        seconds = max(time.monotonic() - self._start, 1e-9)
        self._bar.update(
            self._task,
            completed=self._done + 0.99 * done / max(total, 1),
            rate=f"{self._units / seconds:,.0f} {self._unit}/s",
        )

    def finish_shard(self) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)


class RichReporter:
    """Progress bars with rates and the time left, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> Iterator[_RichStage]:
        """Open a bar for the stage."""
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        with Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
            console=self._console,
        ) as bar:
            task = bar.add_task(name, total=num_shards, completed=num_done, rate="")
            yield _RichStage(bar, task, unit, num_done)

    def remark(self, text: str) -> None:
        """Print the line."""
        self._console.print(text, highlight=False, markup=False)


def make_reporter(display: Display) -> Reporter:
    """Return the reporter for `--display`; auto is rich on a terminal and plain elsewhere."""
    if display == "none":
        return SilentReporter()
    if display == "rich" or (display == "auto" and sys.stderr.isatty()):
        return RichReporter()
    return PlainReporter()
