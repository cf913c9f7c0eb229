"""What is measured of a row, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from speed.server import cpu_seconds_of

Figures = dict[str, Any]
Row = Callable[[str, Path, Path], Figures]
"""(workload, its folder, an empty folder to work in) to what was measured."""


@contextmanager
def clock(figures: Figures) -> Iterator[None]:
    """Put wall and CPU time into the figures; on a shared machine the CPU's is truer."""
    begin, spent = time.perf_counter(), _cpu_seconds()
    yield
    figures["seconds"] = time.perf_counter() - begin
    figures["cpu_seconds"] = _cpu_seconds() - spent


def _cpu_seconds() -> float:
    """CPU time of this process and of its children, running ones included."""
    me = psutil.Process()
    return sum(cpu_seconds_of(process) for process in (me, *me.children(recursive=True)))
