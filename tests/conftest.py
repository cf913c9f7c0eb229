"""Fixtures that several test modules share.

What takes time to import is imported in them: pytest-xdist's own process loads this file too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from gradalign.config import ScoreConfig

if TYPE_CHECKING:
    from runs import FinishedRuns

    from gradalign.report.report import Report

# Tests count teachers: a run has the control only where a test asks for it, in code and commands.
os.environ["GRADALIGN_CONTROL"] = "false"
ScoreConfig.model_fields["control"].default = False
ScoreConfig.model_rebuild(force=True)


GROUPS = {
    "tests/executors/test_ray.py": "ray",
    "tests/pipeline/test_engines_agree.py": "engines",
    "tests/pipeline/test_served_runs.py": "engines",
    "tests/rollouts/test_closed_engines.py": "engines",
    "tests/rollouts/test_engines.py": "engines",
    "tests/rollouts/test_server_distributions.py": "engines",
    "tests/rollouts/test_server_engine.py": "engines",
    "tests/rollouts/test_server_prefix_cache.py": "engines",
    "tests/rollouts/test_vllm_engine.py": "engines",
}
"""Files whose tests run on one worker, one after the other: they share servers or a cluster."""


def _group(item_or_id: str) -> str:
    path = item_or_id.partition("::")[0]
    return GROUPS.get(path, path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that have most slow tests, so that no worker is left alone with one."""
    slow = Counter(_group(item.nodeid) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[_group(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a group to one worker.

    `--dist loadgroup` would, but pytest-xdist 3.8 writes a group into an attribute that
    pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRuns]:
    """Runs on the bundled models, each made once in this session."""
    from runs import FinishedRuns

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers
    runs = FinishedRuns(root / "finished-runs")
    yield runs
    runs.check()


@pytest.fixture(scope="session")
def small_run(finished_runs: FinishedRuns) -> Report:
    """One finished small run; do not change it."""
    from runs import SMALL

    return finished_runs.get(**SMALL)


@pytest.fixture(scope="session")
def informed_run(finished_runs: FinishedRuns) -> Report:
    """One finished run with every diagnostic that needs no sampling; do not change it."""
    from runs import INFORMED

    return finished_runs.get(**INFORMED)


@pytest.fixture
def small_copy(finished_runs: FinishedRuns, tmp_path: Path) -> Report:
    """A copy of that run, to be changed."""
    from runs import SMALL

    return finished_runs.copy(tmp_path / "small", **SMALL)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> Iterator[None]:
    """Spare collections what was imported for all tests: it took 0.4 s to look through."""
    from gradalign.executors.heap import frozen_heap

    with frozen_heap():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    from tests.rollouts.servers import FARM

    yield
    FARM.close()
