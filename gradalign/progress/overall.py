"""How far a whole run is, and how long it will take yet: the plan, scaled by what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TRUST = 0.05
"""The plan's pace counts like so large a share of the run, measured: the first second of a first
stage must not decide about hours."""


@dataclass
class _Part:
    """A stage.

    Attributes:
        planned: its likely seconds.
        begun: the clock when it was opened, None before.
        first: share that was there then.
        share: share that is there now.
        spent: seconds from opening to closing, None before it is closed.
        skipped: whether it was there from before, whole.
    """

    planned: float
    begun: float | None = None
    first: float = 0.0
    share: float = 0.0
    spent: float | None = None
    skipped: bool = False


class Overall:
    """Adds the stages of a run up.

    Args:
        clock: in seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: dict[str, _Part] = {}
        self._reached = 0.0

    @property
    def known(self) -> bool:
        """Whether a plan was given."""
        return bool(self._parts)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Take the likely seconds of every stage, in order."""
        self._parts = {name: _Part(max(value, 1e-3)) for name, value in seconds.items()}
        self._reached = 0.0

    def open(self, name: str, share: float) -> None:
        """Begin a stage of which a share is there; what comes before it is there."""
        if name not in self._parts:
            return
        for other, part in self._parts.items():
            if other == name:
                break
            if part.begun is None:
                part.skipped = True
                part.share = 1.0
        self._parts[name].begun = self._clock()
        self._parts[name].first = self._parts[name].share = share

    def advance(self, name: str, share: float) -> None:
        """Say what share of a stage is there now."""
        if name in self._parts:
            self._parts[name].share = min(max(share, self._parts[name].share), 1.0)

    def close(self, name: str) -> None:
        """End a stage."""
        part = self._parts.get(name)
        if part is not None and part.begun is not None:
            part.share = 1.0
            part.spent = self._clock() - part.begun

    def left(self) -> float | None:
        """Return the seconds that are left, None without a plan."""
        if not self._parts:
            return None
        pace = self._pace()
        return sum(self._left_of(part, pace) for part in self._parts.values())

    def share(self) -> float:
        """Return the share of the run's time that is over; it never goes back."""
        left = self.left()
        if left is None:
            return 0.0
        pace = self._pace()
        over = sum(
            self._spent(part) + part.planned * pace * (part.share if part.skipped else part.first)
            for part in self._parts.values()
        )
        self._reached = max(self._reached, over / max(over + left, 1e-9))
        return self._reached

    def _spent(self, part: _Part) -> float:
        if part.spent is not None:
            return part.spent
        return 0.0 if part.begun is None else self._clock() - part.begun

    def _pace(self) -> float:
        """Return measured seconds per planned one."""
        trust = TRUST * sum(part.planned for part in self._parts.values())
        measured = planned = trust
        for part in self._parts.values():
            if part.begun is not None and part.share > part.first:
                measured += self._spent(part)
                planned += part.planned * (part.share - part.first)
        return measured / planned

    def _left_of(self, part: _Part, pace: float) -> float:
        rest = 1.0 - part.share
        planned = part.planned * pace * rest
        made = part.share - part.first
        if part.begun is None or part.spent is not None or made <= 0:
            return planned
        own = self._spent(part) / made * rest
        trust = min(1.0, 4.0 * made)  # of a stage's own pace, once a quarter of it was measured
        return trust * own + (1.0 - trust) * planned
