"""Real runs on the bundled pair, small but large enough to see each mechanism."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from runs import FinishedRuns

from gradalign.pipeline import diagnose_run
from gradalign.report.report import Report

COMMON = {
    "student": "demo:student",
    "task": "demo:addition",
    "engine": "transformers",
    "bootstrap_resamples": 500,
}


@pytest.fixture(scope="session")
def informed_run(finished_runs: FinishedRuns) -> Report:
    """One checkpoint in contexts that agree and that contradict each other, under two names."""
    return finished_runs.get(
        **COMMON,
        teachers=[
            "demo:strong",
            "self+answer",
            "self+wrong-answer",
            "demo:student+answer",
            "demo:student+solution",
        ],
        methods=["opd", "minillm"],
        limit=8,
        num_rollouts=2,
        nodes=6,
        continuations=6,
        shard_size=4,
    )


@pytest.fixture(scope="session")
def answers_run(finished_runs: FinishedRuns) -> Report:
    """The student told a true and a false answer, on enough questions for its alignment."""
    return finished_runs.get(
        **COMMON | {"task": "demo:addition:size=400"},
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
        **COMMON,
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
