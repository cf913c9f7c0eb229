"""Whole runs of a real student on both engines that are there without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import Command
from runs import flags

import gradalign
from gradalign.report.report import Report
from tests.real.packaged import SMOLLM2, model_folder
from tests.real.word_problems import VERIFIER, write_questions
from tests.requires import require

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.vllm]

ENGINES = ("transformers", "vllm")

SETTINGS: dict[str, Any] = {
    "teachers": ["self+answer"],
    "verifier": VERIFIER,
    "methods": ["gkd", "opd", "dr_grpo"],
    "num_rollouts": 4,
    "nodes": 2,
    "max_candidates": 4,
    "continuations": 4,
    "max_tokens": 24,
    "stop_token_ids": [198],  # the end of a line
    "diagnose": ["none"],
    "bootstrap_resamples": 200,
}


@dataclass(frozen=True)
class Made:
    """A finished run, and what the command said on the way."""

    report: Report
    out: str
    err: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    require("vllm")
    student, folder = model_folder(SMOLLM2), tmp_path_factory.mktemp("smollm2")
    write_questions(folder / "questions.jsonl")
    settings = {"student": str(student), "task": str(folder / "questions.jsonl"), **SETTINGS}
    found = {}
    for engine in ENGINES:
        run = {**settings, "engine": engine, "output_dir": str(folder / engine)}
        command = Command(["score", *flags(run)], folder / "output", engine)
        assert command.wait(600) == 0, command.err
        out = (folder / "output" / f"{engine}.out").read_text()
        found[engine] = Made(gradalign.read_report(str(folder / engine)), out, command.err)
    return found


@pytest.fixture
def runs(made: dict[str, Made]) -> dict[str, Report]:
    return {engine: item.report for engine, item in made.items()}


def test_both_engines_read_the_same_prompts(runs):
    asked = [run.questions.set_index("question_id")["prompt_ids"] for run in runs.values()]
    assert asked[0].map(tuple).to_dict() == asked[1].map(tuple).to_dict()
    assert runs["vllm"].questions["prompt"].str.endswith("=").all()


def test_the_student_is_right_now_and_then(runs):
    shares = [run.spines["correct"].astype(float) for run in runs.values()]
    for share in shares:
        assert 0.1 < share.mean() < 0.95
    gap = abs(shares[0].mean() - shares[1].mean())
    assert gap < 4 * np.sqrt(sum(share.var() / len(share) for share in shares))


def values_after(run: Report) -> pd.DataFrame:
    """V and its variance by question, tokens before the node, and candidate."""
    spines = run.spines.set_index("spine_id")["token_ids"]
    branches = run.branches
    before = [
        tuple(spines[spine][:position])
        for spine, position in zip(branches["spine_id"], branches["position"], strict=True)
    ]
    keys = {"question": branches["question_id"].astype(str), "before": before}
    found = branches.assign(**keys)[[*keys, "token_id", "student_prob", "value", "value_var"]]
    found = found.dropna()
    return found.drop_duplicates([*keys, "token_id"]).set_index([*keys, "token_id"])


def test_values_agree_where_both_engines_forced_the_same_token(runs):
    first, second = (values_after(run) for run in runs.values())
    both = first.merge(second, left_index=True, right_index=True, suffixes=("_1", "_2"))
    assert len(both) >= 15
    np.testing.assert_allclose(both["student_prob_1"], both["student_prob_2"], rtol=1e-3)
    # A variance of 0 is an estimate, too: few rollouts that happened to end alike.
    floor = 1 / (4 * SETTINGS["continuations"])
    variance = both["value_var_1"].clip(lower=floor) + both["value_var_2"].clip(lower=floor)
    score = (both["value_1"] - both["value_2"]) / np.sqrt(variance)
    assert score.abs().max() < 4
    assert (score.abs() < 2).mean() > 0.9


def test_alignment_agrees_within_its_intervals(runs):
    rows = [run.summary[run.summary["split"] == "all"].set_index("method") for run in runs.values()]
    for first, second in (rows, rows[::-1]):
        assert sorted(first.index) == ["dr_grpo", "gkd", "opd"]
        low, high = first["pooled_low"], second["pooled_high"]
        assert (low[["gkd", "opd"]] <= high[["gkd", "opd"]]).all()
        assert first["pooled"]["dr_grpo"] == pytest.approx(1.0, abs=1e-9)


def test_the_noise_floor_is_stated(runs):
    assert runs["transformers"].metadata["noise_floor"] is None
    floor = runs["vllm"].metadata["noise_floor"]
    assert floor["engine"] == "vllm"
    assert floor["tokens"] >= floor["spines"] >= 5
    assert 0 < floor["mean"] < 1e-3
    assert floor["largest"] < 2e-2


def test_every_sequence_is_read_once(runs):
    for run in runs.values():
        figures = run.metadata["actual"]["figures"]
        assert figures["student_passes"] == figures["teacher_passes"] == figures["spines"]


@pytest.mark.parametrize("engine", ENGINES)
def test_it_says_nothing_that_nobody_can_act_on(made, engine):
    run = made[engine]
    assert run.report.metadata["resolved"]["warnings"] == []
    assert "warning" not in run.err.lower()
    assert "Traceback" not in run.err
    assert f"{len(run.report.spines)} spines" in run.out
    assert ("Noise floor: engine vllm" in run.out) == (engine == "vllm")
