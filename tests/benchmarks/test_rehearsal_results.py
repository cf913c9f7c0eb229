"""What the kept results of rehearsals say, and how they are made of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_language import Network, problems
from rehearsal_truth import exact_success, row_of

from gradalign.estimates import Arm

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def truth():
    return json.loads((RESULTS / "rehearsal_truth.json").read_text())


def test_the_bundled_pair_is_trusted_for_24_steps_but_where_it_is_ruined(truth):
    lost = {row["arm"]: row for row in truth["rows"] if row["why_not_trusted"]}
    assert truth["settings"]["kl"] == 0.001
    assert max(row["steps"] for row in truth["rows"]) == 24
    assert all(row["truth"] < -0.1 and row["steps"] == 24 for row in lost.values())
    assert len(lost) <= 1


def test_intervals_hold_the_exact_success_of_the_moved_student(truth):
    for row in truth["rows"]:
        if row["why_not_trusted"]:
            continue
        for size in (20, 40, 100):
            for name in ("gain", "success"):
                assert 91.5 <= row[f"{name}_{size}"] <= 98.6, (row["arm"], row["steps"], name)


def test_rehearsed_gains_are_not_biased_by_more_than_a_tenth(truth):
    for row in truth["rows"]:
        if not row["why_not_trusted"]:
            apart = abs(row["rehearsed"] - row["truth"])
            assert apart <= 0.1 * abs(row["truth"]) + 2.5 * row["standard_error"], row


def test_trainings_that_go_wrong_are_predicted_or_not_trusted():
    found = json.loads((RESULTS / "rehearsal_limits.json").read_text())
    cases = {case["name"]: case for case in found["cases"]}
    assert cases["long"]["auto_length"] < cases["long"]["length"] / 4
    for case in cases.values():
        for row in case["rows"]:
            _, low, high = row["rehearsed"]
            error = 2 * np.std(row["seeds"]) + 0.03
            assert row["why_not_trusted"] or low - error <= row["trained"] <= high + error, row


def test_other_runs_say_what_the_verdicts_errors_allow_for():
    found = json.loads((RESULTS / "rehearsal_spread.json").read_text())
    for row in found["rows"]:
        assert 0.8 <= row["gain"] <= 1.25, row
        assert row["gain"] < 0.7 * row["of_questions"]
        assert 0.8 <= row["difference"] <= 1.35, row
    assert {who for _, verdict, who in found["verdicts"] if verdict == "leading"} == {"demo:strong"}
    text = (RESULTS.parent / "README.md").read_text()
    for name in ("gain", "difference", "of_questions"):
        three, last = [f"{row[name]:.2f}" for row in found["rows"]][:3], found["rows"][3][name]
        assert f"{', '.join(three)} and {last:.2f}" in text


def test_a_row_is_the_bias_and_the_coverage_of_its_draws():
    rng = np.random.default_rng(0)
    truth_Q = rng.normal(0.1, 0.05, 60)
    draws = [
        {
            "gain": truth_Q + rng.normal(0, 0.2, 60), "before": np.full(60, 0.5),
            "effective": 0.9, "outside": 0.01, "divergence": 0.1,
        }
        for _ in range(6)
    ]  # fmt: skip
    row = row_of(Arm("t", "opd"), 3, truth_Q, np.full(60, 0.5), draws, 100)
    assert row["truth"] == pytest.approx(truth_Q.mean())
    assert abs(row["rehearsed"] - row["truth"]) < 4 * row["standard_error"]
    assert row["gain_20"] == row["success_20"] > 80
    far = row_of(Arm("t", "opd"), 3, truth_Q + 1, np.full(60, 0.5), draws, 20)
    assert far["gain_20"] == 0.0


def test_exact_success_of_a_student_that_has_not_moved_is_the_languages():
    student, some = Network("student"), problems(1, 91)
    stay = [torch.zeros_like(p) for p in student.model.parameters()]
    assert exact_success(student, stay, some) == exact_success(student, None, some)
