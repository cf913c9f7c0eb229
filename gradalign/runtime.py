"""Time inside models, memory that models leave behind, and memory that is free.

Model seconds are a sum over the whole process, from which executors take the part of each shard
for run.json. What an engine does in another process or on a server counts for as long as it is at
work.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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
def model_pass(device: torch.device) -> Iterator[None]:
    """Count the time of a pass, forward or backward; on a GPU until its result is there."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    add_model_seconds(time.perf_counter() - begin)


PATIENCE = 64 * 2**20
"""Bytes of closed models that may wait for a collection."""

_waiting = 0


def num_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of a model's weights."""
    return sum(weight.nbytes for weight in model.parameters())


def model_let_go(size: int, device: str) -> None:
    """Free a model that nothing refers to any more, at once or with later ones.

    Its modules refer to each other in circles, so it takes a full collection. That looks through
    every object of torch, transformers and pyarrow: 0.23 s each time, 2.5 of 7 CPU seconds of a
    run of small models. So they wait for more than `PATIENCE` bytes. A GPU's memory never waits.

    Args:
        size: bytes of its weights.
        device: where they were.
    """
    global _waiting
    _waiting += size
    if device.startswith("cuda") or _waiting > PATIENCE:
        free_memory(device)


def free_memory(device: str) -> None:
    """Give back all memory that nothing refers to any more, a GPU's to other processes too."""
    global _waiting
    _waiting = 0
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def available_bytes(device: str) -> int:
    """Return the memory that can be had of a GPU (`cuda`, `cuda:1`), or of the machine.

    Of the machine's, files that are only cached count as free. A limit of the control group that
    this process is in, as containers have it, is kept to.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return min(machine_bytes(), group_bytes(Path("/sys/fs/cgroup")))


def machine_bytes() -> int:
    """Return what the machine has left, files that are only cached included."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def group_bytes(root: Path) -> int:
    """Return what a control group (of version 2) leaves; the largest number without a limit."""
    try:
        limit, used = (int((root / f"memory.{name}").read_text()) for name in ("max", "current"))
        fields = (line.split() for line in (root / "memory.stat").read_text().splitlines())
        cached = {name: int(value) for name, value in fields}.get("inactive_file", 0)
    except (OSError, ValueError):  # version 1, no group, or "max"
        return 2**63 - 1
    return max(limit - used + cached, 0)
