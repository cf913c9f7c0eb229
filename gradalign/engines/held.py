"""One engine for several uses: opened when it is first needed, put to rest in between.

Opening an engine costs seconds to minutes, and the student is sampled from several times in a run,
with other models in memory in between. An engine that can sleep gives its device back meanwhile.
Another one idles where there is memory for the others beside it, and is closed where there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from gradalign.engines.base import Engine, Foreseen
from gradalign.errors import EngineError
from gradalign.models import resolve_device
from gradalign.runtime import available_bytes

ROOM_SHARE, ROOM_BYTES = 0.25, 2**29
"""Memory that has to stay free beside an idle engine and the models: a part of theirs, and this."""


@dataclass(frozen=True)
class Prospect:
    """What a run will likely ask of the student's engine.

    Attributes:
        uses: names of the stages that sample from it, in order.
        work: what they do in all.
        device: where the models are, as `--device`.
        student_bytes: the weights that sleep, of all workers; None if unknown.
        others_bytes: memory that other models need between two uses, None if unknown.
    """

    uses: tuple[str, ...]
    work: Foreseen
    device: str
    student_bytes: int | None
    others_bytes: int | None

    def goes_on_after(self, use: str) -> bool:
        """Whether another use comes later."""
        return use in self.uses[:-1]


@dataclass(frozen=True)
class EngineStart:
    """One opening of an engine, for run.json.

    Attributes:
        use: the stage that needed it.
        reason: why none was open.
        seconds: from nothing to an engine that takes requests.
        engine: its name.
        instead_of: see `Engine`.
        about: what it says of itself, such as its version.
    """

    use: str
    reason: str
    seconds: float
    engine: str
    instead_of: str
    about: dict[str, Any]


FIRST = "no engine was open yet"
APART = "every use opens its own"


class HeldEngine:
    """Lends one engine from use to use; outside of `kept` every use opens its own.

    Attributes:
        prospect: what is to come, None outside of `kept`.
    """

    def __init__(self) -> None:
        self.prospect: Prospect | None = None
        self._engine: Engine | None = None
        self._why_none = FIRST
        self._starts: list[EngineStart] = []

    @property
    def is_open(self) -> bool:
        """Whether an engine is there for the next use."""
        return self._engine is not None

    @contextmanager
    def kept(self, prospect: Prospect) -> Iterator[None]:
        """Keep the engine from use to use until the end of the block."""
        self.prospect, self._why_none = prospect, FIRST
        try:
            yield
        finally:
            self.prospect = None
            self._close(APART)

    @contextmanager
    def lent(
        self, opener: Callable[[], Engine], use: str, *, max_model_len: int = 0
    ) -> Iterator[Engine]:
        """Lend the engine for a block.

        Args:
            opener: opens it, where none is open.
            use: what for, as in `Prospect.uses`.
            max_model_len: tokens of context that are needed; an engine with less is replaced.

        Raises:
            GradalignError: it does not open.
        """
        engine = self._woken(max_model_len) or self._opened(opener, use)
        try:
            yield engine
        except BaseException:
            self._close(f"{use} failed")
            raise
        self._put_to_rest(engine, use)

    def taken_starts(self) -> list[dict[str, Any]]:
        """Return the openings since the last call, each as an `EngineStart` in plain data."""
        starts, self._starts = self._starts, []
        return [asdict(start) for start in starts]

    def _woken(self, max_model_len: int) -> Engine | None:
        """Return the engine that is open, if it will do."""
        engine = self._engine
        if engine is None:
            return None
        if max_model_len > engine.limits.max_model_len:
            self._close("longer sequences were wanted")
            return None
        try:
            engine.wake()
        except EngineError as error:
            self._close(f"it did not wake up: {error.message.splitlines()[0]}")
            return None
        return engine

    def _opened(self, opener: Callable[[], Engine], use: str) -> Engine:
        begin = monotonic()
        engine = self._engine = opener()
        seconds, about = round(monotonic() - begin, 3), dict(engine.usage.extra)
        self._starts.append(
            EngineStart(use, self._why_none, seconds, engine.name, engine.instead_of, about)
        )
        return engine

    def _put_to_rest(self, engine: Engine, use: str) -> None:
        engine.abort()
        if self.prospect is None:
            self._close(APART)
        elif not self.prospect.goes_on_after(use):
            self._close(f"{use} was the last use foreseen")
        elif why := lack_of_memory(engine, self.prospect):
            self._close(why)
        else:
            engine.sleep()

    def _close(self, why: str) -> None:
        engine, self._engine, self._why_none = self._engine, None, why
        if engine is not None:
            engine.close()


def lack_of_memory(engine: Engine, prospect: Prospect) -> str:
    """Return why an engine cannot stay while other models are in memory; empty if it can.

    One that sleeps leaves its device, and keeps its weights in the machine's memory.
    """
    if not engine.holds_memory:
        return ""
    if engine.can_sleep:
        return shortage("the sleeping engine", prospect.student_bytes, available_bytes("cpu"))
    free = available_bytes(resolve_device(prospect.device))
    return shortage("other models", prospect.others_bytes, free)


def shortage(who: str, wanted: int | None, free: int) -> str:
    """Return in words that somebody lacks memory; empty if there is enough, and some to spare."""
    if wanted is None:
        return f"how much memory {who} would need is unknown"
    needed = wanted + int(ROOM_SHARE * wanted) + ROOM_BYTES
    if free >= needed:
        return ""
    return f"{who} would need {needed / 2**30:.1f} GiB where {free / 2**30:.1f} GiB are free"
