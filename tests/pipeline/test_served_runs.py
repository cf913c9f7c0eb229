"""Whole runs with the student, and then a teacher too, on real servers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import SMALL, assert_same_tables

import gradalign
from gradalign.demo import model_path
from gradalign.errors import GradalignError, RunError, UsageError
from tests.requires import require
from tests.rollouts.servers import FARM, KEY, api_key

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.server,
    pytest.mark.slow,
]

SETTINGS = {**SMALL, "methods": ["gkd", "opd", "minillm", "trl/gkd", "dr_grpo"], "limit": 2}


@pytest.fixture(scope="module")
def servers() -> list[str]:
    require("vllm")
    return [s.url for s in FARM.get_all(model_path("student"), model_path("strong"))]


@pytest.fixture(scope="module")
def local_teachers(tmp_path_factory: pytest.TempPathFactory, servers: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("served") / "local-teachers"
    settings = {**SETTINGS, "engine": "auto", "base_urls": servers[:1]}
    with api_key():
        gradalign.score(**settings, output_dir=str(folder))
    return folder


def test_a_run_on_a_server_is_the_run_in_process(local_teachers, tmp_path):
    gradalign.score(**{**SETTINGS, "engine": "vllm"}, output_dir=str(tmp_path / "in-process"))
    assert_same_tables(local_teachers, tmp_path / "in-process")


def test_the_key_is_nowhere_in_the_folder(local_teachers):
    for path in local_teachers.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_the_noise_floor_is_the_gap_of_the_stored_scores(local_teachers):
    report = gradalign.read_report(str(local_teachers))
    floor = report.metadata["noise_floor"]
    assert floor["engine"] == "server"
    positions = report.table("positions")
    gaps = []
    for row in report.spines.itertuples():
        own = positions[positions["spine_id"] == row.spine_id].sort_values("position")
        gaps.append(np.abs(np.asarray(row.engine_logprobs) - own["student_logprob"].to_numpy()))
    every = np.concatenate(gaps)
    assert floor["tokens"] == len(every)
    assert floor["mean"] == pytest.approx(every.mean(), rel=1e-3, abs=1e-9)
    assert floor["largest"] == pytest.approx(every.max(), rel=1e-3)
    assert 0 < floor["mean"] <= floor["largest"] < 1e-3
    assert any("Noise floor: engine server" in line for line in report.footer())


def test_a_teacher_on_a_server_gives_the_same_alignment(local_teachers, servers, tmp_path):
    served = {
        **SETTINGS,
        "engine": "server",
        "base_urls": servers[:1],
        "teacher_base_urls": [f"demo:strong={servers[1]}"],
    }
    with api_key():
        report = gradalign.score(**served, output_dir=str(tmp_path / "run"))
    here = gradalign.read_report(str(local_teachers))
    keys = ["node_id", "teacher", "method"]
    joined = here.alignment.merge(report.alignment, on=keys, suffixes=("_here", "_there"))
    assert len(joined) == len(here.alignment) == len(report.alignment)
    strong = joined[joined["teacher"] == "demo:strong"]
    assert set(strong["method"]) == {"gkd", "opd", "minillm", "trl/gkd"}
    pd.testing.assert_series_equal(
        strong["cosine_here"], strong["cosine_there"], check_names=False, atol=2e-3
    )
    pd.testing.assert_series_equal(
        strong["dot_here"], strong["dot_there"], check_names=False, atol=1e-4
    )
    assert report.metadata["totals"]["unknown_candidates"] == 0
    assert report.branch_teachers["teacher_prob"].notna().all()

    # Where the servers are may change between two attempts; that there are some may not.
    with api_key(), pytest.raises(RunError, match="--teacher-base-url"):
        gradalign.score(**{**served, "teacher_base_urls": []}, output_dir=str(tmp_path / "run"))
    moved = {**served, "base_urls": [servers[0] + "/v1"]}
    gradalign.score(**moved, output_dir=str(tmp_path / "run"))


def test_what_is_wrong_with_a_server_is_known_before_the_run(servers, tmp_path):
    cases = [
        ({"base_urls": servers[1:]}, "does not serve"),
        ({"base_urls": ["http://127.0.0.1:9"]}, "no answer"),
        ({"engine": "server"}, "needs --base-url"),
        ({"engine": "transformers", "base_urls": servers[:1]}, "--engine server"),
        ({"teacher_base_urls": [f"demo:weak={servers[1]}"]}, "no teacher's model"),
        ({"teacher_base_urls": [f"demo:strong={servers[0]}"]}, "does not serve"),
        ({"teacher_base_urls": [servers[1]]}, "not of the form"),
    ]
    for i, (changed, words) in enumerate(cases):
        settings = {**SETTINGS, "engine": "auto", **changed}
        with api_key(), pytest.raises(GradalignError, match=words):
            gradalign.score(**settings, output_dir=str(tmp_path / str(i)))
        assert not os.listdir(tmp_path) or not any((tmp_path / str(i)).glob("*.json"))


def test_a_server_with_too_few_logprobs_is_refused(servers, tmp_path):
    settings = {
        **SETTINGS,
        "teacher_base_urls": [f"demo:strong={servers[1]}"],
        "support_size": 258,
    }
    with api_key(), pytest.raises(UsageError, match="--max-logprobs 258"):
        gradalign.score(**settings, output_dir=str(tmp_path / "run"))
