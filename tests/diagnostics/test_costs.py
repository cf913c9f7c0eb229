"""What each diagnostic costs, by the counters of the engines themselves."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from runs import SMALL

import gradalign
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.pipeline import diagnose_run

NO_SAMPLING = ["overlap", "topk", "contexts", "horizon", "gram", "predictors", "rivals"]

BARE = {
    **SMALL,
    "teachers": ["demo:strong", "self+answer", "self+wrong-answer"],
    "methods": ["opd"],
    "limit": 2,
    "nodes": 2,
    "continuations": 2,
}


@pytest.fixture
def usages(monkeypatch):
    """The usage of every engine that is opened from here on."""
    found = []
    opened = TransformersEngine.__init__

    def open_and_remember(self, *arguments, **options):
        opened(self, *arguments, **options)
        found.append(self.usage)

    monkeypatch.setattr(TransformersEngine, "__init__", open_and_remember)
    return found


@pytest.fixture
def bare(finished_runs) -> Path:
    return Path(finished_runs.get(**BARE, diagnose=["none"]).path)


def spent(usages):
    return {
        name: sum(getattr(usage, name) for usage in usages)
        for name in ("num_requests", "prompt_tokens", "generated_tokens")
    }


def model_seconds(report, names):
    stages = report.metadata["stages"]
    return {name: stages[name]["model_seconds"] for name in stages if name.startswith(names)}


def test_diagnosing_while_scoring_samples_nothing_more(usages, tmp_path):
    gradalign.score(**BARE, diagnose=["none"], output_dir=str(tmp_path / "none"))
    without = spent(usages)
    usages.clear()
    report = gradalign.score(**BARE, output_dir=str(tmp_path / "default"))
    assert spent(usages) == without
    assert without["generated_tokens"] > 0
    # Nor is any model asked: gamma = 0 is all that horizon does by default.
    assert model_seconds(report, "align") == {"align": 0.0}
    tables = ("diagnostics", "diagnostics_topk", "diagnostics_contexts", "diagnostics_horizon")
    assert all(report.folder.files(table) for table in tables)
    assert not model_seconds(report, "score continuations")
    assert set(report.table("diagnostics_horizon")["gamma"]) == {0.0}
    usages.clear()
    every = {**BARE, "diagnose": NO_SAMPLING}  # horizon by name: every gamma
    report = gradalign.score(**every, output_dir=str(tmp_path / "named"))
    assert spent(usages) == without
    assert len(set(report.table("diagnostics_horizon")["gamma"])) == 4


@pytest.mark.parametrize("names", [[name] for name in NO_SAMPLING] + [NO_SAMPLING], ids=str)
def test_diagnosing_a_stored_run_opens_no_engine(bare, usages, tmp_path, names):
    shutil.copytree(bare, tmp_path / "run")
    report = diagnose_run(str(tmp_path / "run"), names)
    assert usages == []
    assert set(report.diagnostics_summary["mechanism"].astype(str)) >= set(names)
    assert model_seconds(report, "align") == {"align": 0.0}
    passes = model_seconds(report, "score continuations")
    assert bool(passes) == ("horizon" in names)


def test_continuing_prefixes_costs_what_the_plan_says(bare, usages, tmp_path):
    settings = {**BARE, "diagnose": ["prefix"]}
    planned = asdict(gradalign.plan(**settings, probe=True).figures)
    usages.clear()
    shutil.copytree(bare, tmp_path / "run")
    report = diagnose_run(str(tmp_path / "run"), ["prefix"])
    table = report.table("diagnostics_prefix")
    used = spent(usages)
    assert used["num_requests"] == len(table) == planned["prefix_continuations"]
    assert used["generated_tokens"] == table["num_tokens"].sum()
    assert used["generated_tokens"] == pytest.approx(planned["prefix_tokens"], rel=0.2)
    # The same from `score`, where plan and actual figures stand side by side in run.json.
    report = gradalign.score(**settings, output_dir=str(tmp_path / "scored"))
    plan, actual = (report.metadata[name]["figures"] for name in ("plan", "actual"))
    assert plan["prefix_continuations"] == actual["prefix_continuations"] == len(table)
    assert actual["prefix_tokens"] == used["generated_tokens"] <= plan["prefix_tokens"]
