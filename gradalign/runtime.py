"""How long this process has been inside models: engine steps and teacher-forced passes.

A sum over the whole process, from which executors take the part of each shard for run.json. What
an engine does in another process or on a server counts for as long as it is at work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_seconds = 0.0


def model_seconds() -> float:
    """Return the seconds so far."""
    return _seconds


def add_model_seconds(seconds: float) -> None:
    """Count so much more."""
    global _seconds
    _seconds += seconds


@contextmanager
def forward_pass(device: torch.device) -> Iterator[None]:
    """Count the time of a forward pass; on a GPU until its result is there."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    add_model_seconds(time.perf_counter() - begin)
