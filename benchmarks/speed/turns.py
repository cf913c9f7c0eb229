"""Two workers, one of which is stopped now and then: what the second one brings.

A virtual machine's speed changes by a third within minutes, so that two runs one after the other
say little about each other. Here spells with both at work and spells with one take turns every few
seconds in one run, and the mean of the ones is divided by that of the others.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import psutil

from speed.figures import Figures

SPELL_SECONDS = 10.0
SETTLE_SECONDS = 2.0
"""After a change this much of a spell does not count: news of what was done comes late."""


class Turns:
    """Stops and continues a worker while a block runs.

    Args:
        done: returns how much has been done so far, by all workers.
        busy: returns whether both workers have something to do.
        processes: returns the processes of the worker to be stopped.
    """

    def __init__(
        self,
        done: Callable[[], float],
        busy: Callable[[], bool],
        processes: Callable[[], Sequence[psutil.Process]],
    ) -> None:
        self._done, self._busy, self._processes = done, busy, processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.both: list[float] = []
        self.one: list[float] = []

    def __enter__(self) -> Turns:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def figures(self, tokens_per_unit: float = 1.0) -> Figures:
        """Return tokens per second with both and with one, and the ratio of the two."""
        if not self.one:
            raise RuntimeError("there was not enough to do for two spells")
        both, one = (tokens_per_unit * statistics.mean(found) for found in (self.both, self.one))
        seconds = (SPELL_SECONDS - SETTLE_SECONDS) * len(self.both)
        return {
            "seconds": seconds,
            "cpu_seconds": None,
            "tokens": both * seconds,
            "requests": len(self.both),
            "one_per_second": one,
            "times_one": both / one,
            "spells": {
                name: [round(tokens_per_unit * speed) for speed in found]
                for name, found in (("both", self.both), ("one", self.one))
            },
        }

    def _run(self) -> None:
        while not self._busy():
            if self._over.wait(0.1):
                return
        stopped = self._processes()
        while not self._over.is_set():
            self._spell(self.both)
            for process in stopped:
                process.suspend()
            try:
                self._spell(self.one)
            finally:
                for process in stopped:
                    process.resume()

    def _spell(self, speeds: list[float]) -> None:
        """Measure one spell; one that is cut short or runs out of work does not count."""
        if self._over.wait(SETTLE_SECONDS):
            return
        begin, before = time.perf_counter(), self._done()
        if self._over.wait(SPELL_SECONDS - SETTLE_SECONDS) or not self._busy():
            return
        speeds.append((self._done() - before) / (time.perf_counter() - begin))
