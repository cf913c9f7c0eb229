"""The executor that a run asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager

from gradalign.config import ScoreConfig
from gradalign.executors.base import Executor
from gradalign.executors.local import LocalExecutor
from gradalign.executors.ray import RayExecutor


def open_executor(config: ScoreConfig) -> AbstractContextManager[Executor]:
    """Return the executor that a configuration asks for; use it in a with statement.

    Raises:
        MissingDependencyError: `ray` is asked for and not installed.
        UsageError: more workers or GPUs than there are.
    """
    if config.executor == "ray":
        return RayExecutor(config)
    return LocalExecutor()
