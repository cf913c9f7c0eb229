"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from runs import INFORMED, SMALL, FinishedRuns

from gradalign.report.report import Report
from tests.rollouts.servers import FARM

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests of a file for one worker, and begin with the groups that take longest."""
    group_of, slow = {}, Counter[str]()
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        group = str(mark.args[0]) if mark else item.nodeid.partition("::")[0]
        if mark is None:
            item.add_marker(pytest.mark.xdist_group(group))
        group_of[item] = group
        slow[group] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -slow[group_of[item]])


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRuns]:
    """Runs on the bundled models, each made once in this session."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers
    runs = FinishedRuns(root / "finished-runs")
    yield runs
    runs.check()


@pytest.fixture(scope="session")
def small_run(finished_runs: FinishedRuns) -> Report:
    """One finished small run; do not change it."""
    return finished_runs.get(**SMALL)


@pytest.fixture(scope="session")
def informed_run(finished_runs: FinishedRuns) -> Report:
    """One finished run with every diagnostic that needs no sampling; do not change it."""
    return finished_runs.get(**INFORMED)


@pytest.fixture
def small_copy(finished_runs: FinishedRuns, tmp_path: Path) -> Report:
    """A copy of that run, to be changed."""
    return finished_runs.copy(tmp_path / "small", **SMALL)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    FARM.close()
