"""What there is to show of a run at a moment, and how it looks as lines of text."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gradalign.progress.overall import Overall
from gradalign.progress.words import cut_middle, short_names, spoken

WHOLE = "whole run"


@dataclass
class OpenStage:
    """The stage that is being done.

    Attributes:
        name: of the run's record.
        label: for people, with short names.
        unit: what it counts.
        num_shards: how many there are.
        done: how many of them are there.
        part: share of the current shard.
        units: how many were made since it was opened.
        begun: the clock then.
    """

    name: str
    label: str
    unit: str
    num_shards: int
    done: int
    begun: float
    part: float = 0.0
    units: int = 0

    @property
    def share(self) -> float:
        """Share of the stage that is there."""
        return min((self.done + 0.99 * self.part) / max(self.num_shards, 1), 1.0)


class _StageHandle:
    def __init__(self, stage: OpenStage, changed: Callable[[], None]) -> None:
        self._stage, self._changed = stage, changed

    def shard(self, done: int, total: int, units: int) -> None:
        self._stage.units += units
        self._stage.part = done / max(total, 1)
        self._changed()

    def finish_shard(self) -> None:
        self._stage.done += 1
        self._stage.part = 0.0
        self._changed()


class Watcher(ABC):
    """A reporter that keeps what there is to show; how it is shown is its subclasses' own.

    Args:
        clock: in seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.overall = Overall(clock)
        self.doing: str | None = None
        self.since = clock()
        self.current: OpenStage | None = None
        self._lock = threading.RLock()
        self._short: dict[str, str] = {}

    @abstractmethod
    def changed(self) -> None:
        """Show the state, if it is time to."""

    @abstractmethod
    def opened(self, stage: OpenStage) -> None:
        """Show that a stage begins."""

    @abstractmethod
    def finished(self, stage: OpenStage) -> None:
        """Show that a stage is done."""

    @abstractmethod
    def remark(self, text: str) -> None:
        """Print one line."""

    @abstractmethod
    def close(self) -> None:
        """End all showing."""

    def activity(self, text: str) -> None:
        """Say what is being done outside of stages."""
        with self._lock:
            self.doing, self.since = text, self.clock()
        self.changed()

    def expect(self, seconds: Mapping[str, float], models: Sequence[str] = ()) -> None:
        """Take the plan; see Reporter."""
        with self._lock:
            self.overall.expect(seconds)
            self._short = short_names(models)

    @contextmanager
    def stage(self, name: str, unit: str, num_shards: int, num_done: int) -> Iterator[_StageHandle]:
        """Open a stage."""
        stage = OpenStage(name, self._label(name), unit, num_shards, num_done, self.clock())
        with self._lock:
            self.doing = None
            self.current = stage
            self.overall.open(name, stage.share)
        self.opened(stage)
        try:
            yield _StageHandle(stage, self._advanced)
        finally:
            with self._lock:
                self.current = None
        with self._lock:
            self.overall.close(name)
        self.finished(stage)

    def _advanced(self) -> None:
        with self._lock:
            if self.current is not None:
                self.overall.advance(self.current.name, self.current.share)
        self.changed()

    def _label(self, name: str) -> str:
        label = name.replace("score continuations: ", "score ")
        for model in sorted(self._short, key=len, reverse=True):
            if label.endswith(model):
                return label.removesuffix(model) + self._short[model]
        return label

    def lines(self, width: int, *, ascii_only: bool = False) -> list[str]:
        """Return the state as lines of at most `width` characters: bars, or what is being done."""
        with self._lock:
            if self.current is None:
                if self.doing is None:
                    return []
                rows = [
                    cut_middle(f"{self.doing} ({spoken(self.clock() - self.since)})", width),
                ]
                return [self._whole(width, ascii_only), *rows] if self._under_way() else rows
            stage = self.current
            seconds = self.clock() - stage.begun
            rate = f"{stage.units / max(seconds, 1e-9):,.0f} {stage.unit}/s"
            wide = width >= 80
            tail = rate if wide and len(rate) <= 22 and stage.units else spoken(seconds)
            row = bar_line(stage.label, stage.share, tail, width, ascii_only=ascii_only)
            return [self._whole(width, ascii_only), row] if self.overall.known else [row]

    def summary(self) -> str:
        """Return the state in one line: how much is done, how long it takes yet."""
        with self._lock:
            parts = []
            if self.overall.known:
                parts.append(f"{self.overall.share():.0%} done, {self._left()}")
            if self.current is not None:
                stage = self.current
                parts.append(
                    f"{stage.label}: {stage.share:.0%}, {stage.units:,} {stage.unit}"
                    + (f", {stage.done} of {stage.num_shards} shards" * (stage.num_shards > 1))
                )
            elif self.doing is not None:
                parts.append(f"{self.doing} ({spoken(self.clock() - self.since)})")
            return "; ".join(parts)

    def _under_way(self) -> bool:
        return self.overall.known and self.overall.share() > 0

    def _whole(self, width: int, ascii_only: bool) -> str:
        share = self.overall.share()
        return bar_line(WHOLE, share, self._left(), width, ascii_only=ascii_only)

    def _left(self) -> str:
        left = self.overall.left()
        return f"about {spoken(left)} left" if left is not None and left >= 1 else "nearly done"


def bar_line(label: str, share: float, tail: str, width: int, *, ascii_only: bool = False) -> str:
    """Return a bar with a label before and a percentage and a remark behind it.

    Without colours the part that is done is told from the rest by its sign.
    """
    wide = width >= 80
    label_width, tail_width = (28, 22) if wide else (max(width // 3, 8), 20)
    bar_width = width - label_width - tail_width - 8
    name = cut_middle(label, label_width)
    end = f"{share:>4.0%} {cut_middle(tail, tail_width)}"
    if bar_width < 4:
        return cut_middle(f"{label} {end}", width)
    filled = min(int(share * bar_width), bar_width)
    full, empty = ("#", "-") if ascii_only else ("━", "┄")
    return f"{name:<{label_width}} {full * filled}{empty * (bar_width - filled)} {end}"
