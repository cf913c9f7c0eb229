"""Time inside models, and memory that models leave behind.

Model seconds are a sum over the whole process, from which executors take the part of each shard
for run.json. What an engine does in another process or on a server counts for as long as it is at
work.
"""

from __future__ import annotations

import gc
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


SMALL_MODEL = 64 * 2**20
"""Bytes that may wait for Python's next collection of its own."""


def num_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of a model's weights."""
    return sum(weight.nbytes for weight in model.parameters())


def release_memory(bytes_let_go: int, device: str) -> None:
    """Free memory that was let go of now: a model's modules refer to each other in circles.

    A full collection looks through every object of torch, transformers and pyarrow (about 0.25 s),
    so it is made only where it frees more than `SMALL_MODEL`, or a GPU's memory.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu or bytes_let_go > SMALL_MODEL:
        gc.collect()
    if on_gpu:
        import torch

        torch.cuda.empty_cache()
