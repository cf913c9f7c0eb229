"""The far side of the Ray executor: a process that does shards, one stage at a time.

What comes in and goes out is plain data: the run as JSON, a stage by its number, an outcome of
strings and integers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.engines.base import Foreseen
from gradalign.engines.held import Prospect
from gradalign.errors import GateError, GradalignError, RunError
from gradalign.executors.heap import frozen_heap
from gradalign.runtime import model_seconds
from gradalign.stages.base import Resolved, Run, Work, announce

TICK_SECONDS = 0.5
"""A worker tells of its progress at most this often."""


@dataclass(frozen=True)
class Failure:
    """A GradalignError as plain data.

    Attributes:
        kinds: names of its classes, the closest first.
        message, hint: as in GradalignError.
    """

    kinds: tuple[str, ...]
    message: str
    hint: str


@dataclass(frozen=True)
class Outcome:
    """What became of one shard in a worker.

    Attributes:
        counts: for run.json.
        seconds: wall time of the worker, opening the stage included.
        model_seconds: of these, inside engines and model passes.
        opening_seconds: of these, on opening the stage.
        units: how many units of progress there were.
        engine_starts: openings of the student's engine, for run.json.
        failure: None if the shard is done.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    model_seconds: float = 0.0
    opening_seconds: float = 0.0
    units: int = 0
    engine_starts: Sequence[Mapping[str, Any]] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Tidings:
    """How far a worker is with its shard."""

    done: int
    total: int
    units: int


class ProgressBoard:
    """Keeps the latest word of every worker; the driver reads it now and then."""

    def __init__(self) -> None:
        self._latest: dict[str, Tidings] = {}

    def post(self, shard: str, tidings: Tidings) -> None:
        """Replace what is known of a shard."""
        self._latest[shard] = tidings

    def take(self) -> dict[str, Tidings]:
        """Return and forget what came in since the last call."""
        latest, self._latest = self._latest, {}
        return latest


def run_to_json(run: Run) -> str:
    """Write a run as plain data; a local folder by its absolute path.

    What is to come of the student's engine goes with it.
    """
    config = run.config.model_dump(mode="json")
    if "://" not in config["output_dir"]:
        config["output_dir"] = os.path.abspath(config["output_dir"])
    prospect = run.student_engine.prospect
    return json.dumps(
        {
            "config": config,
            "resolved": asdict(run.resolved),
            "prospect": None if prospect is None else asdict(prospect),
        }
    )


def run_from_json(text: str) -> tuple[Run, Prospect | None]:
    """Read what `run_to_json` wrote."""
    data: dict[str, Any] = json.loads(text)
    run = Run(ScoreConfig.build(data["config"]), Resolved(**_with_tuples(data["resolved"])))
    prospect = data["prospect"]
    if prospect is None:
        return run, None
    work = Foreseen(**prospect.pop("work"))
    return run, Prospect(work=work, **_with_tuples(prospect))


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }


class Worker:
    """Holds one stage's session and does shards with it; an engine of its own outlives stages.

    Args:
        run_json: the run, from `run_to_json`.
        working_folder: the driver's, so that relative paths mean the same here.
        board: the actor that progress is posted to.
    """

    def __init__(self, run_json: str, working_folder: str, board: Any) -> None:
        if os.path.isdir(working_folder):
            os.chdir(working_folder)
        self._run, prospect = run_from_json(run_json)
        self._kept = ExitStack()
        if prospect is not None:
            self._kept.enter_context(self._run.student_engine.kept(prospect))
        self._board = board
        self._number = -1
        self._session = ExitStack()
        self._work: Work | None = None

    def ready(self) -> bool:
        """Answer as soon as this worker has come up."""
        return True

    def work(self, number: int, shard: str, ahead: str | None) -> Outcome:
        """Do a shard of stage `number`, opening the stage if another one is open.

        `ahead` is the shard that this worker will be asked for next, if that is known.
        """
        start, before = time.monotonic(), model_seconds()
        ticker = _Ticker(self._board, shard)
        try:
            work = self._open(number)
            opening = time.monotonic() - start
            announce(work, ahead)
            with frozen_heap():
                counts = work(shard, ticker)
        except GradalignError as error:
            return Outcome(failure=_plain(error))
        return Outcome(
            counts={name: int(count) for name, count in counts.items()},
            seconds=time.monotonic() - start,
            model_seconds=model_seconds() - before,
            opening_seconds=opening,
            units=ticker.units,
            engine_starts=self._run.student_engine.taken_starts(),
        )

    def close(self) -> Outcome:
        """Close the open stage: its model's memory is free afterwards."""
        try:
            self._close()
        except GradalignError as error:
            return Outcome(failure=_plain(error))
        return Outcome()

    def _open(self, number: int) -> Work:
        if self._work is None or self._number != number:
            from gradalign.order import stages
            from gradalign.stages.preparation.identity import check_models

            self._close()
            run = self._run
            if not run.folder.exists("run.json"):
                raise RunError(
                    f"a worker on {os.uname().nodename} does not see the run in "
                    f"{run.config.output_dir}.",
                    "Choose an --output-dir that every node shares, or an fsspec URL.",
                )
            recorded = run.folder.read_json("run.json")["models"]
            check_models(run, recorded)
            self._work = self._session.enter_context(stages(run)[number].session(run))
            check_models(run, recorded)  # they may have been changed while they were read
            self._number = number
        return self._work

    def _close(self) -> None:
        self._work = None
        self._session.close()


class _Ticker:
    """Receives a shard's ticks and passes on a few of them."""

    def __init__(self, board: Any, shard: str) -> None:
        self._board, self._shard = board, shard
        self._next = time.monotonic() + TICK_SECONDS
        self.units = 0

    def __call__(self, done: int, total: int, units: int) -> None:
        self.units += units
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TICK_SECONDS
            self._board.post.remote(self._shard, Tidings(done, total, self.units))


def _plain(error: GradalignError) -> Failure:
    kinds = tuple(kind.__name__ for kind in type(error).__mro__)
    lines = error.lines if isinstance(error, GateError) else ()
    return Failure(kinds, "\n".join((error.message, *lines)), error.hint)
