"""Real runs on the bundled pair, small but large enough to see each mechanism."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runs import PROVOKED, FinishedRuns

from gradalign.pipeline import diagnose_run
from gradalign.report.report import Report


@pytest.fixture(scope="session")
def answers_run(finished_runs: FinishedRuns) -> Report:
    """The student told a true and a false answer, on enough questions for its alignment."""
    return finished_runs.get(
        **PROVOKED | {"task": "demo:addition:size=400"},
        teachers=["self+answer", "self+wrong-answer"],
        methods=["opd", "minillm"],
        limit=96,
        num_rollouts=2,
        nodes=8,
        continuations=4,
        shard_size=32,
        diagnose=["horizon"],
    )


@pytest.fixture(scope="session")
def prefix_run(finished_runs: FinishedRuns) -> Report:
    """Many spines and hardly any nodes: what the one diagnostic that samples needs."""
    return finished_runs.get(
        **PROVOKED,
        teachers=["demo:strong", "self+answer"],
        methods=["opd"],
        limit=12,
        num_rollouts=4,
        nodes=1,
        continuations=2,
        shard_size=6,
        diagnose=["prefix"],
    )


@pytest.fixture(scope="session")
def completed_run(prefix_run: Report, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A copy of that run with every other diagnostic added later."""
    folder = tmp_path_factory.mktemp("runs") / "completed"
    shutil.copytree(Path(prefix_run.path), folder)
    return diagnose_run(str(folder))
