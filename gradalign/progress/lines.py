"""Progress as lines, for logs and pipes: a line every half minute."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from gradalign.progress.state import OpenStage, Watcher
from gradalign.progress.words import spoken

EVERY_SECONDS = 30.0


class PlainReporter(Watcher):
    """A line every 30 seconds, and one wherever something begins or ends.

    Args:
        out: where to; stderr by default.
        changes: print what begins and ends, too.
        every: seconds between two lines.
        clock: in seconds, for tests.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        *,
        changes: bool = True,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._out = out
        self._changes, self._every = changes, every
        self._next = clock() + every
        self._over = threading.Event()
        # It speaks where nothing ticks, too: while a model is opened, or in one long pass.
        threading.Thread(target=self._speak, daemon=True).start()

    def activity(self, text: str) -> None:
        """Say what is being done outside of stages."""
        super().activity(text)
        if self._changes:
            self._print(text)

    def changed(self) -> None:
        """Print the state, where the last line is old enough."""
        with self._lock:
            if self.clock() < self._next or self._over.is_set():
                return
            self._next = self.clock() + self._every
            text = self.summary()
        if text:
            self._print(text)

    def opened(self, stage: OpenStage) -> None:
        """Say that a stage begins, and what of it is there."""
        if self._changes:
            there = f": {stage.done} of {stage.num_shards} shards are there already"
            self._print(f"{stage.label}{there if stage.done else ''}")

    def finished(self, stage: OpenStage) -> None:
        """Say what a stage made."""
        if self._changes:
            seconds = spoken(self.clock() - stage.begun)
            done = f" ({self.overall.share():.0%} of the run)" if self.overall.known else ""
            self._print(f"{stage.label}: {stage.units:,} {stage.unit} in {seconds}{done}")

    def remark(self, text: str) -> None:
        """Print the line."""
        self._print(text)

    def close(self) -> None:
        """End the thread."""
        self._over.set()

    def _print(self, text: str) -> None:
        print(text, file=self._out or sys.stderr, flush=True)

    def _speak(self) -> None:
        while not self._over.wait(min(self._every / 4, 1.0)):
            self.changed()
