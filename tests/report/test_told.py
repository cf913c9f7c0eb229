"""Told or knows: from made updates of known shares to the verdict's sentence."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from report.made_run import write_run

import gradalign
from gradalign.alignment.weights import share_of_shared
from gradalign.store.folder import RunFolder
from gradalign.store.schema import schema

QUESTIONS = 60
UNITS = 200


def updates(share, seed):
    """Questions' updates [Q, D] of squared length about 1, of which `share` is common to all."""
    rng = np.random.default_rng(seed)
    own_QD = rng.normal(size=(QUESTIONS, UNITS)) / np.sqrt(UNITS - 1)
    own_QD[:, 0] = 0.0
    common = np.zeros(UNITS)
    common[0] = np.sqrt(share)
    return common + np.sqrt(1 - share) * own_QD


def made(folder, shares, gains):
    """Write a run with alignment in the weights, of arms with such shares, ranked by gains."""
    arms = {(teacher, "opd"): 0.5 for teacher in shares}
    config = {"seed": 0, "alignment": ["pooled", "weights"]}
    write_run(folder, arms, questions=QUESTIONS, nodes=4, metadata={"config": config})
    run = RunFolder(str(folder))
    rng = np.random.default_rng(9)
    summary, sums = [], []
    for seed, (teacher, share) in enumerate(shares.items()):
        update_QD = updates(share, seed)
        gram_QQ = update_QD @ update_QD.T
        found, influence_Q = share_of_shared(gram_QQ, np.diag(gram_QQ))
        row = dict.fromkeys(schema("summary").names)
        row |= {"teacher": teacher, "method": "opd", "split": "all", "reason": ""}
        row |= dict(zip(SHARE, (found.value, found.low, found.high), strict=True))
        gain = gains[teacher]
        row |= dict(zip(GAIN, (gain, gain - 0.01, gain + 0.01), strict=True))
        summary.append(row)
        gain_Q = rng.normal(size=QUESTIONS) * 0.001 / QUESTIONS
        for number in range(QUESTIONS):
            sums.append(
                dict.fromkeys(schema("question_sums").names, 0.0)
                | {"question_id": f"q{number:05d}", "teacher": teacher, "method": "opd"}
                | {"weights_one_influence": gain_Q[number] - gain_Q.mean()}
                | {"weights_share_influence": influence_Q[number]}
            )
    run.write_summary(pa.Table.from_pylist(summary, schema=schema("summary")))
    run.write_table("question_sums", "all", pa.Table.from_pylist(sums, schema("question_sums")))
    return gradalign.read_report(str(folder)).recommend()


SHARE = ("weights_shared_share", "weights_shared_share_low", "weights_shared_share_high")
GAIN = ("weights_gain_one", "weights_gain_one_low", "weights_gain_one_high")


def test_a_leader_that_was_told_is_set_against_the_best_that_was_not(tmp_path):
    shares = {"self+answer": 0.04, "strong": 0.4, "weak": 0.9}
    gains = {"self+answer": 0.3, "strong": 0.2, "weak": 0.1}
    result = made(tmp_path / "run", shares, gains)
    assert result.basis == "weights_gain_one"
    found = result.shared
    assert (found.arm.teacher, found.told, found.other) == ("self+answer", True, "strong")
    assert found.share.value == pytest.approx(0.04, abs=0.03)
    assert found.other_share.value == pytest.approx(0.4, abs=0.05)
    assert found.difference.value == found.share.value - found.other_share.value
    assert found.difference.high < 0
    (line,) = [line for line in result.remarks if "shared by questions" in line]
    assert line.startswith("self+answer was told rather than knows: ")
    assert f"{found.other_share.value:.0%}" in line
    assert " of strong's" in line
    said = json.loads(json.dumps(result.to_dict()))["shared"]
    assert said["teacher"] == "self+answer"
    assert said["other"]["teacher"] == "strong"
    assert said["difference"]["difference"] == pytest.approx(found.difference.value)


def test_a_leader_that_was_not_told_is_set_against_the_best_that_was(tmp_path):
    gains = {"strong": 0.3, "self+answer": 0.2}
    result = made(tmp_path / "run", {"strong": 0.4, "self+answer": 0.04}, gains)
    (line,) = [line for line in result.remarks if "shared by questions" in line]
    assert line.startswith("strong knows rather than was told: 4")
    result = made(tmp_path / "alike", {"strong": 0.3, "self+answer": 0.3}, gains)
    (line,) = [line for line in result.remarks if "shared by questions" in line]
    assert "strong was not told, which its updates do NOT surely show" in line


def test_a_teacher_that_was_told_and_shares_as_much_is_not_blamed(tmp_path):
    gains = {"self+answer": 0.3, "strong": 0.2}
    result = made(tmp_path / "run", {"self+answer": 0.3, "strong": 0.3}, gains)
    (line,) = [line for line in result.remarks if "shared by questions" in line]
    assert "rather than" not in line
    assert "NOT surely show" in line


def test_alone_the_share_is_said_and_without_the_weights_nothing(tmp_path):
    result = made(tmp_path / "run", {"strong": 0.4, "weak": 0.1}, {"strong": 0.3, "weak": 0.1})
    (line,) = [line for line in result.remarks if "shared by questions" in line]
    assert line.startswith("strong with opd: 4")
    assert result.shared.difference is None
    assert result.to_dict()["shared"]["other"] is None
    write_run(tmp_path / "plain", {("strong", "opd"): 0.5})
    plain = gradalign.read_report(str(tmp_path / "plain")).recommend()
    assert plain.shared is None
    assert plain.to_dict()["shared"] is None
    assert not any("shared by questions" in line for line in plain.remarks)


def test_a_direction_of_no_meaning_shares_nothing():
    found, influence_Q = share_of_shared(*of(updates(0.0, 3)))
    assert found.low < 0 < found.high < 0.1
    assert influence_Q.sum() == pytest.approx(0.0, abs=1e-12)
    alike = np.ones((5, 3))
    assert share_of_shared(*of(alike))[0].value == pytest.approx(1.0)


def of(update_QD):
    gram_QQ = update_QD @ update_QD.T
    return gram_QQ, np.diag(gram_QQ).copy()


def test_the_share_is_that_of_pairs_written_out():
    update_QD = updates(0.3, 1)[:6]
    pairs = [update_QD[q] @ update_QD[r] for q in range(6) for r in range(6) if q != r]
    own = [update @ update for update in update_QD]
    found, _ = share_of_shared(*of(update_QD))
    assert found.value == pytest.approx(np.mean(pairs) / np.mean(own))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_intervals_hold_the_truth_as_often_as_they_say(share):
    held, spreads, found = 0, [], []
    for seed in range(200):
        rng = np.random.default_rng([seed, 1])  # not the stream of the directions
        # Questions differ in size too, so that both numerator and denominator vary.
        update_QD = updates(share, seed) * rng.lognormal(0.0, 0.3, size=(QUESTIONS, 1))
        estimate, influence_Q = share_of_shared(*of(update_QD))
        # Sizes are drawn apart from directions: E[size]^2 over E[size^2] of it is common.
        truth = share * np.exp(-(0.3**2))
        held += estimate.low <= truth <= estimate.high
        spreads.append(np.sqrt(QUESTIONS / (QUESTIONS - 1) * (influence_Q**2).sum()))
        found.append(estimate.value)
    assert held >= 180
    assert np.mean(spreads) == pytest.approx(np.std(found), rel=0.2)
    assert np.mean(found) == pytest.approx(truth, abs=0.01)


def test_influences_are_those_of_leaving_a_question_out():
    update_QD = updates(0.3, 5)
    whole, influence_Q = share_of_shared(*of(update_QD))
    left = [
        share_of_shared(*of(np.delete(update_QD, q, axis=0)))[0].value for q in range(QUESTIONS)
    ]
    moved = -(np.array(left) - np.mean(left))
    assert np.corrcoef(moved, influence_Q)[0, 1] > 0.99
    jackknife = np.sqrt((QUESTIONS - 1) * (moved**2).mean())
    spread = np.sqrt(QUESTIONS / (QUESTIONS - 1) * (influence_Q**2).sum())
    assert spread == pytest.approx(jackknife, rel=0.05)
    assert whole.low < whole.value < whole.high


def test_noise_of_responses_does_not_count_as_a_question_s_own():
    """The squared length is that of two responses' product: what is noise in each is in neither."""
    rng = np.random.default_rng(2)
    update_QD = updates(0.3, 7)
    noise_2QD = 2.0 * rng.normal(size=(2, QUESTIONS, UNITS)) / np.sqrt(UNITS)
    one_QD, other_QD = update_QD + noise_2QD
    mean_QD = (one_QD + other_QD) / 2
    found, _ = share_of_shared(mean_QD @ mean_QD.T, (one_QD * other_QD).sum(axis=1))
    assert found.value == pytest.approx(0.3, abs=0.1)
    naive, _ = share_of_shared(*of(mean_QD))
    assert naive.value < 0.15


def test_too_little_is_unknown():
    gram_QQ, own_Q = of(updates(0.3, 1))
    assert np.isnan(share_of_shared(gram_QQ[:2, :2], own_Q[:2])[0].value)
    own_Q[0] = np.nan
    assert np.isnan(share_of_shared(gram_QQ, own_Q)[0].value)


def test_a_run_has_it(tmp_path):
    """From real updates: the column is s / (s + v_q) of its neighbours."""
    report = gradalign.score(
        student="demo:student",
        teachers=["demo:strong", "self+answer"],
        task="demo:addition",
        methods=["opd"],
        limit=12,
        num_rollouts=2,
        nodes=4,
        continuations=2,
        bootstrap_resamples=100,
        diagnose=["none"],
        alignment="weights",
        engine="transformers",
        output_dir=str(tmp_path / "run"),
    )
    rows = report.summary.query("split == 'all' and teacher != ''")
    assert len(rows) == 2
    for row in rows.to_dict("records"):
        whole = row["weights_shared"] + row["weights_between"]
        assert row["weights_shared_share"] == pytest.approx(row["weights_shared"] / whole)
        assert row["weights_shared_share_low"] < row["weights_shared_share"]
    result = report.recommend()
    assert result.shared is not None
    sums = report.table("question_sums").query("teacher == 'demo:strong'")
    assert sums["weights_share_influence"].abs().max() > 0


def test_the_constant_push_is_named_after_its_paper(tmp_path):
    arms = {("strong", "gkd"): 0.8, ("", "random"): 0.0}
    write_run(tmp_path / "run", arms)
    plain = gradalign.read_report(str(tmp_path / "run")).recommend()
    assert not any("2608.31046" in line for line in plain.remarks)
    write_run(tmp_path / "other", arms | {("", "uniform_negative:advantage=-2"): 0.0})
    named = gradalign.read_report(str(tmp_path / "other")).recommend()
    (line,) = [line for line in named.remarks if "2608.31046" in line]
    assert line.startswith("uniform_negative is the control of ")
