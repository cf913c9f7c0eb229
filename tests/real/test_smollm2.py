"""Whole runs of a real student on both engines that are there without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import flags

import gradalign
from gradalign.report.report import Report
from gradalign_cli.main import main
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    require("vllm")
    student, folder = model_folder(SMOLLM2), tmp_path_factory.mktemp("smollm2")
    write_questions(folder / "questions.jsonl")
    settings = {"student": str(student), "task": str(folder / "questions.jsonl"), **SETTINGS}
    return {
        engine: gradalign.score(**settings, engine=engine, output_dir=str(folder / engine))
        for engine in ENGINES
    }


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
    both = first.join(second, how="inner", lsuffix="_1", rsuffix="_2")
    assert len(both) >= 15
    np.testing.assert_allclose(both["student_prob_1"], both["student_prob_2"], rtol=1e-3)
    # A variance of 0 is an estimate, too: few rollouts that happened to end alike.
    floor = 1 / (4 * SETTINGS["continuations"])
    variance = both["value_var_1"].clip(lower=floor) + both["value_var_2"].clip(lower=floor)
    score = (both["value_1"] - both["value_2"]) / np.sqrt(variance)
    assert score.abs().max() < 4
    assert (score.abs() < 2).mean() > 0.9


def test_alignment_agrees_within_its_intervals(runs):
    rows = [run.summary[run.summary["split"] == "all"] for run in runs.values()]
    joined = rows[0].merge(rows[1], on=["teacher", "method"], suffixes=("_1", "_2"))
    assert len(joined) == len(rows[0]) == 3
    assert (joined["pooled_low_1"] <= joined["pooled_high_2"]).all()
    assert (joined["pooled_low_2"] <= joined["pooled_high_1"]).all()
    for row in rows:
        (ideal,) = row[row["method"] == "dr_grpo"]["pooled"]
        assert ideal == pytest.approx(1.0, abs=1e-9)


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
def test_a_finished_run_says_nothing_that_nobody_can_act_on(runs, engine, capfd):
    run = runs[engine]
    assert run.metadata["resolved"]["warnings"] == []
    config = {**SETTINGS, "student": run.metadata["config"]["student"], "engine": engine}
    task = str(Path(run.path).parent / "questions.jsonl")
    with pytest.raises(SystemExit) as stop:
        main(["score", *flags({**config, "task": task, "output_dir": run.path})])
    assert stop.value.code == 0
    shown = capfd.readouterr()
    assert "Warning" not in shown.err
    assert "WARNING" not in shown.err
    assert f"{len(run.spines)} spines" in shown.out
