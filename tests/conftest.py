"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from runs import SMALL

import gradalign
from gradalign.report.report import Report
from tests.rollouts.servers import FARM

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One finished small run; do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    return gradalign.score(**SMALL, output_dir=str(folder))


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    FARM.close()
