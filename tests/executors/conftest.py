"""A Ray cluster of this machine's two cores."""

from __future__ import annotations

import os
import signal

import pytest
from requires import require


@pytest.fixture(scope="module")
def ray_cluster():
    """Start Ray in this process, and shut it down at the end: it takes time even when idle."""
    ray = require("ray")
    from gradalign.executors.cluster import start_here

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = signal.getsignal(signal.SIGTERM)
    start_here(ray, num_cpus=2)
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)  # Ray leaves its own, which ends the process at once
