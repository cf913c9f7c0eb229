"""How quick this machine is at this moment, measured in about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

MATRIX = {"cpu": 1024}
GPU_MATRIX = 4096
"""Rows and columns of the factors of a large product."""

WEIGHTS = 8192
"""Rows and columns of a matrix that is larger than the caches of a processor."""

MEASURE_SECONDS = 0.5
"""Long enough that other programs get their turns meanwhile."""


@dataclass(frozen=True)
class Machine:
    """Speeds by the clock, with whatever else runs on the machine now.

    Attributes:
        flops: floating-point operations per second of a large matrix product.
        bytes_per_second: what a product with a single vector reads of a matrix.
        crowding: seconds that pass per second of work, at least 1: more than 1 where other
            programs want the same cores.
    """

    flops: float
    bytes_per_second: float
    crowding: float


@cache
def this_machine(device: str, dtype: str) -> Machine:
    """Measure a device, once in a process.

    Args:
        device: cuda, cpu or mps.
        dtype: as `--dtype`; a CPU is measured in float32.
    """
    import torch

    kind = torch.float32
    if device != "cpu":
        kind = getattr(torch, dtype) if dtype != "auto" else torch.bfloat16
    size = MATRIX.get(device, GPU_MATRIX)
    square = torch.ones((size, size), dtype=kind, device=device)
    wide = torch.ones((WEIGHTS, WEIGHTS), dtype=kind, device=device)
    vector = torch.ones(WEIGHTS, dtype=kind, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    product, worked = _seconds(lambda: torch.mm(square, square), wait)
    read, _ = _seconds(lambda: torch.mv(wide, vector), wait)
    return Machine(
        flops=2.0 * size**3 / product,
        bytes_per_second=wide.nbytes / read,
        crowding=max(product / worked * torch.get_num_threads(), 1.0) if device == "cpu" else 1.0,
    )


def _seconds(work: Callable[[], object], wait: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a piece of work takes, by the clock and by this process."""
    work()
    wait()
    begin, busy, count = time.monotonic(), time.process_time(), 0
    while time.monotonic() - begin < MEASURE_SECONDS:
        work()
        wait()
        count += 1
    return (time.monotonic() - begin) / count, (time.process_time() - busy) / count
