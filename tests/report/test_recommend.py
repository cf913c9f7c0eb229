"""The verdict: right where the truth is known, and silent where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report.made_run import write_run
from runs import SMALL
from scipy.stats import norm

import gradalign
from gradalign.alignment import pooled_of_sums
from gradalign.estimates import Arm, Difference
from gradalign.report.format import rough_duration
from gradalign.report.node_scores import read_scores
from gradalign.report.significance import holm
from gradalign.report.verdict import role_of
from gradalign.report.verdict.bases import Pooled
from gradalign.report.verdict.evidence import Evidence, evidence_of
from gradalign.report.verdict.families import judge
from gradalign.report.verdict.recommendation import is_told
from gradalign.report.verdict.settle import questions_needed


def made(tmp_path, arms, **options):
    write_run(tmp_path / "run", arms, **options)
    return gradalign.read_report(str(tmp_path / "run")).recommend()


def test_evidence_is_said_with_its_spread_and_its_worst_choice():
    two = Evidence(("one", "two"), (0.91, 0.7), (0.0, 0.0233))
    assert two.sentence == (
        "On 2 pairs of small models it ranked trainings at 0.70 to 0.91 (Spearman), and its "
        "first choice gained at most 0.023 less than the best."
    )
    real = Evidence(("one", "two"), (0.91, 0.7), (0.0, 0.0), real=("two",))
    assert "On 2 pairs, 1 of them real, it" in real.sentence
    assert evidence_of("no such number").sentence == ""


def test_a_clear_winner_beats_every_control(tmp_path):
    result = made(
        tmp_path,
        {
            ("strong", "gkd"): 0.8, ("weak", "gkd"): 0.3, ("strong+wrong-answer", "gkd"): -0.2,
            ("", "random"): 0.0, ("", "dr_grpo"): 0.999,
        },
    )  # fmt: skip
    assert (result.verdict, result.teacher, result.methods) == ("winner", "strong", ("gkd",))
    assert "Distill from strong with gkd" in result.headline
    said = next(line for line in result.remarks if line.startswith("Ranked by"))
    assert said == f"Ranked by pooled alignment. {evidence_of('pooled').sentence}"
    assert [item.name for item in result.ranking] == [
        "dr_grpo", "gkd@strong", "gkd@weak", "random", "gkd@strong+wrong-answer"
    ]  # fmt: skip
    assert [item.role for item in result.ranking] == [
        "reference", "candidate", "candidate", "control", "control"
    ]  # fmt: skip
    assert result.ranking[1].pooled.low < 0.8 < result.ranking[1].pooled.high
    assert [(pair.first, pair.second) for pair in result.controls] == [
        ("strong", "strong+wrong-answer")
    ]
    assert any("surely above the control strong+wrong" in line for line in result.evidence)
    assert {part.split: part.advice for part in result.parts}["incorrect"] == "keep"


def test_another_question_s_answer_is_a_control_and_never_the_winner(tmp_path):
    arms = {("self+other-answer", "gkd"): 0.8, ("weak", "gkd"): 0.3, ("", "random"): 0.0}
    result = made(tmp_path, arms)
    assert result.ranking[0].role == "control"
    assert result.verdict == "none"
    assert [(pair.first, pair.second) for pair in result.controls] == [
        ("weak", "self+other-answer")
    ]


def test_information_is_what_is_left_without_its_words(tmp_path):
    arms = {
        ("self+answer", "gkd"): 0.8, ("self+solution", "gkd"): 0.5,
        ("self+reference-free", "gkd"): 0.5, ("strong+answer", "gkd"): 0.6, ("strong", "gkd"): 0.2,
    }  # fmt: skip
    result = made(tmp_path, arms)
    found = {(pair.first, pair.second): pair for pair in result.information}
    assert set(found) == {
        (f"self+{name}", "self+reference-free") for name in ("answer", "solution")
    }
    pair = found["self+answer", "self+reference-free"]
    assert pair.value == pytest.approx(0.3, abs=0.06)
    assert pair.significant(0.95)
    lines = [line for line in result.remarks if "Beyond the words" in line]
    assert "self+answer surely gains by the information in it: +0.3" in lines[0]
    assert "self+solution does NOT surely gain" in lines[1]
    assert json.loads(json.dumps(result.to_dict()))["information"][0]["second"] == (
        "self+reference-free"
    )


def test_two_equal_teachers_are_no_winner(tmp_path):
    result = made(tmp_path, {("one", "gkd"): 0.5, ("two", "gkd"): 0.5, ("", "random"): 0.0})
    assert result.verdict == "tie"
    assert "No clear winner among teachers" in result.headline
    assert result.settle
    assert result.settle[0].extra_rollouts == 100 * result.settle[0].extra_questions


def test_a_random_teacher_is_not_recommended(tmp_path):
    result = made(tmp_path, {("none", "gkd"): 0.0, ("", "random"): 0.0}, questions=20)
    assert result.verdict == "none"
    assert result.teacher is None
    assert "No clear winner" in result.headline


def test_a_harmful_teacher_is_named_as_such(tmp_path):
    result = made(tmp_path, {("bad", "gkd"): -0.6})
    assert "Do not distill" in result.headline
    assert all(part.advice == "drop" for part in result.parts)


def test_one_question_gives_no_interval(tmp_path):
    result = made(tmp_path, {("one", "gkd"): 0.9}, questions=1)
    assert result.verdict == "none"
    assert "too few questions" in result.headline
    assert not any(item.pooled.known for item in result.ranking)
    json.dumps(result.to_dict(), allow_nan=False)


def test_false_alarms_between_equal_teachers_are_rare(tmp_path):
    """Under the null, the largest t keeps the rate of any claimed difference near 5 %."""
    alarms = 0
    names = ("t0", "t1", "t2")
    for seed in range(20):
        folder = tmp_path / str(seed)
        write_run(folder, {(name, "gkd"): 0.4 for name in names}, questions=101, nodes=2, seed=seed)
        scores = read_scores(gradalign.read_report(str(folder)))
        found = judge([Pooled(scores)], scores.arms)
        alarms += any(pair.significant(0.95) for pair in found.teacher_pairs)
    assert alarms <= 4  # P(more than 4 of 20) is 0.3 % at a rate of 5 %


def test_pairing_uses_the_nodes_that_both_have(tmp_path, small_run):
    scores = read_scores(small_run)
    arm, other = Arm("demo:strong", "gkd"), Arm("self+answer", "gkd")
    both = scores.there(arm, other)
    frame = small_run.alignment
    own = frame[(frame["teacher"] == arm.teacher) & (frame["method"] == arm.method)]
    assert both.sum() == len(own) > 0
    expected = (own["weight"] * own["dot"]).groupby(own["question_id"].astype(str)).sum()
    np.testing.assert_allclose(scores.sums(arm)[:, 0], expected.to_numpy(), atol=1e-15)


def test_sums_agree_with_the_summary(small_run):
    scores = read_scores(small_run)
    summary = small_run.summary.set_index(["teacher", "method", "split"])["pooled"]
    stored = small_run.table("question_sums").set_index(["teacher", "method", "question_id"])
    names = ["dot", "ideal_norm2", "method_norm2", "ideal_size", "method_size"]
    for arm in scores.arms:
        own = stored.loc[arm.teacher, arm.method].reindex(scores.questions)[names]
        np.testing.assert_allclose(scores.sums(arm), own.fillna(0.0), rtol=1e-9, atol=1e-15)
        for split, inside in scores.splits().items():
            value = float(pooled_of_sums(scores.sums(arm, inside).sum(axis=0)))
            expected = summary.get((arm.teacher, arm.method, split), np.nan)
            if np.isfinite(expected):
                np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01, "1 second"), (40, "40 seconds"), (600, "10 minutes"), (9000, "2.5 hours")],
)
def test_times_are_never_nothing(seconds, text):
    assert rough_duration(seconds) == text


def test_questions_needed_has_the_promised_power():
    """The interval of a family of three reaches 2.4 standard errors."""
    reach = norm.isf(0.05 / 6)
    pair = Difference(0.1, 0.1 - 0.1 * reach, 0.1 + 0.1 * reach, se=0.1)
    needed = questions_needed(pair, 50)
    z = 0.1 / (0.1 * np.sqrt(50 / needed))
    assert norm.sf(reach - z) == pytest.approx(0.8, abs=1e-6)
    assert np.isnan(questions_needed(Difference(0.0, -0.1, 0.1, se=0.1), 50))


@pytest.mark.parametrize(
    ("teacher", "method", "role"),
    [
        ("m+wrong-answer", "gkd", "control"),
        ("m+answer", "gkd:beta=0", "candidate"),
        ("m", "random:seed=3", "control"),
        ("", "uniform_negative", "control"),
        ("", "dr_grpo", "reference"),
        ("delta:m+answer,m+wrong-answer", "gkd", "candidate"),
        ("delta:m+wrong-answer,m+answer,a=0.5", "gkd", "control"),
        ("delta:m,b", "random", "control"),
    ],
)
def test_roles(teacher, method, role):
    assert role_of(Arm(teacher, method)) == role


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ("m+answer", True),
        ("delta:m+answer,m", True),
        ("delta:m,m+answer", False),
        ("delta:demo:strong,self,a=0.5", False),
    ],
)
def test_a_difference_is_told_what_it_goes_towards(teacher, told):
    assert is_told(teacher) == told


@pytest.mark.slow
def test_the_bundled_pair(finished_runs):
    """The strong teacher is ahead of the weak one and of a false context, with significance."""
    report = finished_runs.get(
        **{
            **SMALL, "teachers": ["demo:strong", "demo:weak", "demo:strong+wrong-answer"],
            "task": "demo:addition:size=400", "limit": 96, "num_rollouts": 2, "nodes": 8,
            "methods": ["gkd:beta=0", "gkd", "opd", "random"], "shard_size": 32,
            "diagnose": ["none"],
        }
    )  # fmt: skip
    result = report.recommend()
    assert result.teachers[0].teacher == "demo:strong"
    assert result.verdict == "winner"
    (pair,) = result.teacher_pairs
    assert (pair.first, pair.second) == ("demo:strong", "demo:weak")
    assert pair.value > 0
    assert pair.significant(0.95)
    (against,) = result.controls
    assert against.second == "demo:strong+wrong-answer"
    assert against.significant(0.95)
    (control,) = [item for item in result.ranking if item.method == "random"]
    assert control.role == "control"
    assert control.pooled.low < 0 < control.pooled.high


@pytest.mark.parametrize(("size", "followed"), [(None, True), (100_000, True), (45, False)])
def test_advice_is_a_command_as_far_as_the_task_has_questions(tmp_path, size, followed):
    result = made(
        tmp_path, {("one", "gkd"): 0.52, ("two", "gkd"): 0.5},
        metadata={"task": {"name": "t", "fingerprint": "", "size": size}},
    )  # fmt: skip
    first = result.settle[0]
    assert first.task_size == size
    path = tmp_path / "run"
    limit = int(np.ceil(first.questions))
    command = f"gradalign score --config {path}/run.json --limit {limit} --output-dir {path}"
    assert first.command == (command if followed else "")
    assert any((command in line) == followed for line in result.remarks if "To settle" in line)


def test_controls_and_other_families_change_no_answer(tmp_path):
    arms = {("a", "gkd"): 0.55, ("a", "opd"): 0.5, ("b", "gkd"): 0.4, ("b", "opd"): 0.4}
    write_run(tmp_path / "run", arms | {("", f"random:seed={n}"): 0.0 for n in range(20)})
    scores = read_scores(gradalign.read_report(str(tmp_path / "run")))
    plain = judge([Pooled(scores)], [arm for arm in scores.arms if arm.teacher])
    assert judge([Pooled(scores)], scores.arms) == plain
    # Another method of the trailing teacher alone is of no family that the leader is in.
    assert plain.teachers[0].teacher == "a"


def test_a_told_teacher_does_not_beat_a_plain_one_on_pooled_alone(tmp_path):
    result = made(tmp_path, {("self+answer", "gkd"): 0.8, ("strong", "gkd"): 0.3})
    assert (result.verdict, result.teacher) == ("tie", "self+answer")
    assert "--alignment weights" in result.headline
    harmful = {("self+answer", "gkd"): 0.8, ("strong", "gkd"): -0.3}
    write_run(tmp_path / "harmful", harmful)
    assert gradalign.read_report(str(tmp_path / "harmful")).recommend().verdict == "leading"


def test_without_a_control_it_only_leads(tmp_path):
    result = made(tmp_path, {("strong", "gkd"): 0.8, ("weak", "gkd"): 0.3})
    assert result.verdict == "leading"
    assert result.headline.startswith("Leading, no control: strong with gkd")
    assert any("--teacher self+wrong-answer" in line for line in result.evidence)


def test_a_control_that_does_as_well_is_named(tmp_path):
    result = made(tmp_path, {("strong", "gkd"): 0.6, ("strong+wrong-answer", "gkd"): 0.6})
    assert (result.verdict, result.teacher) == ("none", None)
    assert "strong+wrong-answer, which was told something false, does as well" in result.headline
