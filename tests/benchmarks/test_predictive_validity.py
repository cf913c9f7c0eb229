"""The predictive-validity benchmark: it trains what it says, and ranks as it should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from gradalign import methods
from tests.requires import require

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_spearman_is_scipys_and_needs_variation():
    from validity.ranks import spearman

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 30), rng.normal(size=30)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(spearman(np.ones(5), y[:5]))


def test_correlations_leave_out_what_is_undefined_and_widen_with_noise():
    from validity.ranks import correlate

    rng = np.random.default_rng(1)
    truth = np.linspace(-1, 1, 16)
    clear = truth[:, None] + 0.01 * rng.normal(size=(16, 3))
    blurred = truth[:, None] + 2.0 * rng.normal(size=(16, 3))
    found, unclear = (correlate(truth, g, num_resamples=300) for g in (clear, blurred))
    assert found.estimate.value > 0.97
    assert found.estimate.low > 0.85
    wide, narrow = (item.estimate.high - item.estimate.low for item in (unclear, found))
    assert wide > 2 * narrow
    holes = np.where(np.arange(16) % 4 == 0, np.nan, truth)
    assert correlate(holes, clear, num_resamples=50).count == 12
    assert np.isnan(correlate([np.nan] * 16, clear).estimate.value)


def small():
    from validity.pairs import ADDITION, Configuration, load_model
    from validity.training import logits_of, node_batch, rollout, teacher_log_probs

    questions = list(ADDITION.questions(4, 1, False))
    model = load_model("demo:student")
    rolled = rollout(ADDITION, model, questions, 2, seed=3)
    student = logits_of(ADDITION, model.requires_grad_(True), rolled)
    item = Configuration("demo:strong", "opd")
    teacher = teacher_log_probs(ADDITION, load_model("demo:strong"), item, rolled)
    return model, rolled, student, teacher, node_batch(rolled, student, teacher, 2)


@pytest.mark.parametrize(
    ("spec", "loss"),
    [
        ("gkd:beta=0", lambda p, q: (q.exp() * (q - p)).sum()),
        ("opd", lambda p, q: (p.exp() * (p - q)).sum()),
    ],
)
def test_the_trained_direction_is_the_gradient_of_the_method_s_loss(spec, loss):
    """Pushing along the scored direction is a backward pass of the textbook loss."""
    model, _, student, teacher, batch = small()
    student.push(methods.get(spec).ascent(batch))
    pushed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    _, _, again, _, _ = small()
    assert torch.equal(again.logits_NV, student.logits_NV)  # one seed, one set of responses
    ids = torch.from_numpy(np.asarray(again.row_N)), torch.from_numpy(again.column_N)
    other = small()
    log_p = torch.log_softmax(other[2].logits_BWV[ids], dim=-1)
    loss(log_p, teacher).backward()
    for mine, parameter in zip(pushed, other[0].parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=2e-3, atol=2e-4)


def test_grpo_trains_rewards_against_their_group():
    _, rolled, student, _, batch = small()
    ascent = methods.get("dr_grpo:group=2").ascent(batch, "sampled")
    sampled = np.concatenate(rolled.response_ids)
    advantage = rolled.reward_B - np.repeat(rolled.reward_B.reshape(-1, 2).mean(axis=1), 2)
    p = torch.softmax(student.logits_NV.double(), dim=-1).numpy()
    expected = -p
    expected[np.arange(len(p)), sampled] += 1.0
    expected *= advantage[student.row_N, None]
    np.testing.assert_allclose(np.nan_to_num(ascent), expected, atol=1e-9)


def test_every_step_has_the_same_length():
    from validity.pairs import load_model
    from validity.training import move

    model, _, student, _, batch = small()
    before = [p.detach().clone() for p in load_model("demo:student").parameters()]
    student.push(methods.get("opd").ascent(batch))
    move(model, 0.05)
    moved = torch.cat(
        [(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]
    )
    assert float(moved.norm()) == pytest.approx(0.05, rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_the_questions_of_training_scoring_and_evaluation_differ():
    from validity.pairs import ADDITION
    from validity.scoring import SCORE_DRAW
    from validity.training import EVAL_DRAW

    held_out = {q.id for q in ADDITION.questions(300, EVAL_DRAW, True)}
    trained = {q.id for q in ADDITION.questions(300, 1000, False)}
    scored = {q.id for q in ADDITION.questions(300, SCORE_DRAW, False)}
    assert not held_out & trained
    assert not held_out & scored
    assert scored != trained


def test_selections_keep_what_they_are_named_for():
    from validity.selection import Pool, select
    from validity.training import Rollout

    ids = [np.zeros(3, np.int32), np.zeros(2, np.int32)]
    rolled = Rollout([None, None], ids, np.array([1.0, 0.0]))
    pool = Pool(rolled, np.array([0.5, np.nan, -0.1, 0.2, np.nan]), 2)
    kept = {
        name: select(pool, name, np.random.default_rng(0)).tolist()
        for name in ("all", "positive", "negative", "incorrect")
    }
    assert kept["all"] == [True] * 5
    assert kept["positive"] == [True, False, False, True, False]
    assert kept["negative"] == [False, False, True, False, False]
    assert kept["incorrect"] == [False, False, False, True, True]
    draws = [select(pool, "random", np.random.default_rng(seed)) for seed in range(20)]
    assert {int(draw.sum()) for draw in draws} == {2}
    assert len({tuple(draw) for draw in draws}) > 3
    with pytest.raises(ValueError, match="unknown selection"):
        select(pool, "best", np.random.default_rng(0))


CALLS: list[int] = []


def square(job):
    CALLS.append(job["x"])
    return {"y": job["x"] ** 2}


def test_finished_jobs_are_not_repeated(tmp_path):
    from validity.jobs import run_jobs

    CALLS.clear()
    store = tmp_path / "jobs.jsonl"
    jobs = [{"x": x} for x in (1, 2, 3)]
    assert run_jobs(square, jobs[:2], store, 1, lambda text: None) == [{"y": 1}, {"y": 4}]
    assert run_jobs(square, jobs, store, 1, lambda text: None) == [{"y": 1}, {"y": 4}, {"y": 9}]
    assert CALLS == [1, 2, 3]


def test_a_good_teacher_improves_the_student_and_a_weak_one_does_not():
    """Two real trainings in small: the sign of the gain is that of what is taught."""
    from validity.pairs import ADDITION, Configuration
    from validity.training import TrainSettings, measure, train

    settings = TrainSettings(0.025, checkpoints=(4,), prompts=16, group=4, eval_prompts=512)
    gain = {}
    for teacher in ("demo:strong", "demo:weak"):
        seen = []
        item = Configuration(teacher, "opd")
        model = train(ADDITION, item, settings, 0, lambda step, model, seen=seen: seen.append(step))
        gain[teacher] = measure(ADDITION, model, settings, seed=0).gain
        assert seen == [1, 2, 3, 4]
    assert gain["demo:strong"] > 0.05
    assert gain["demo:weak"] < -0.02


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("teacher", "method", "estimator"),
    [("demo:strong", "gkd:beta=0", "expected"), ("", "dr_grpo", "sampled")],
)
def test_trl_takes_the_steps_of_the_plain_loop(teacher, method, estimator):
    """From one student, TRL's first step points where the plain loop's does, and is as long."""
    require("trl")
    from validity.pairs import ADDITION, Configuration, load_model
    from validity.training import TrainSettings, train
    from validity.trl_training import implements, train_with_trl

    item = Configuration(teacher, method, estimator)
    assert implements(item)
    settings = TrainSettings(0.02, checkpoints=(1,), prompts=32, group=16)
    before = torch.cat([p.flatten() for p in load_model("demo:student").parameters()])
    moved = {}
    for loop in (train_with_trl, train):
        model = loop(ADDITION, item, settings, 3)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved[loop] = after - before
        assert float(moved[loop].norm()) == pytest.approx(0.02, rel=1e-3)
    # Each draws its own 512 responses to the same questions, so that they agree up to noise.
    cosine = torch.dot(moved[train_with_trl], moved[train]) / 0.02**2
    assert float(cosine) > (0.9 if method == "gkd:beta=0" else 0.25)


@pytest.mark.filterwarnings("ignore")
def test_parts_of_a_step_bound_the_memory_and_change_no_gradient():
    require("trl")
    from dataclasses import replace

    from validity.pairs import ADDITION, Configuration, load_model
    from validity.training import TrainSettings, train
    from validity.trl_training import train_with_trl

    settings = TrainSettings(0.02, checkpoints=(1,), prompts=6, group=4)
    before = torch.cat([p.flatten() for p in load_model("demo:student").parameters()])
    parts = replace(ADDITION, at_once=2)
    for loop, item in (
        (train, Configuration("demo:strong", "gkd")),
        (train, Configuration("", "dr_grpo", "sampled")),
        (train_with_trl, Configuration("demo:strong", "gkd")),
        (train_with_trl, Configuration("", "dr_grpo", "sampled")),
    ):
        whole, moved = (
            torch.cat([p.detach().flatten() for p in loop(pair, item, settings, 3).parameters()])
            for pair in (ADDITION, parts)
        )
        assert torch.linalg.vector_norm(moved - whole) < 0.01 * torch.linalg.vector_norm(
            whole - before
        ), (loop, item)


def test_trl_is_not_asked_for_what_it_does_not_implement():
    from validity.pairs import ADDITION, Configuration
    from validity.training import TrainSettings
    from validity.trl_training import implements, train_with_trl

    by_trl = [item for item in ADDITION.configurations if implements(item)]
    assert len(by_trl) == 10
    assert {item.context for item in by_trl} == {"none"}
    assert not implements(Configuration("demo:strong", "opd", "sampled"))
    item = Configuration("self+answer", "opd")
    with pytest.raises(ValueError, match="does not train opd @ self"):
        train_with_trl(ADDITION, item, TrainSettings(), 0)


def test_a_training_is_short_while_its_gain_is_in_proportion():
    from validity.gains import longest_short

    assert longest_short([0.03, 0.06, 0.10, 0.12], (3, 6, 12, 24)) == 2
    assert longest_short([0.03, 0.01, 0.01, 0.01], (3, 6, 12, 24)) == 0
    assert longest_short([0.03, 0.07, 0.16, 0.33], (3, 6, 12, 24)) == 3


def test_the_better_predictor_is_told_by_its_difference():
    from validity.ranks import difference

    rng = np.random.default_rng(2)
    truth = rng.normal(size=16)
    gains = truth[:, None] + 0.1 * rng.normal(size=(16, 3))
    good, poor = truth + 0.1 * rng.normal(size=16), rng.normal(size=16)
    found = difference(good, poor, gains, num_resamples=300)
    assert found.estimate.low > 0
    assert found.estimate.value == pytest.approx(
        spearmanr(good, gains.mean(axis=1)).statistic
        - abs(spearmanr(poor, gains.mean(axis=1)).statistic)
    )
    assert difference(good, -good, gains, num_resamples=50).estimate.value == pytest.approx(0.0)
    assert difference([np.nan] * 15 + [1.0], good, gains).count == 1


@pytest.mark.slow
def test_the_quick_version_runs_from_end_to_end(tmp_path):
    from predictive_validity import main

    places = ["--output-dir", str(tmp_path), "--work-dir", str(tmp_path / "work")]
    main(["--quick", "--processes", "1", *places])
    result = json.loads((tmp_path / "predictive_validity_quick.json").read_text())["pairs"][0]
    rows = {row["label"]: row for row in result["configurations"]}
    strong, weak = rows["opd @ demo:strong"], rows["opd @ demo:weak"]
    assert strong["gain"] > 0.05
    assert weak["gain"] < 0
    assert rows["opd @ self+wrong-answer"]["gain"] < -0.05
    assert strong["pooled"] > 0 > weak["pooled"]
    assert strong["mean"] > 0 > weak["mean"]
    assert {strong["trainer"], rows["random"]["trainer"]} == {"trl", "plain"}
    assert result["correlations"]["pooled"]["count"] == len(rows)
    assert result["correlations"]["pooled"]["rho"] > 0
    assert "Spearman" in (tmp_path / "predictive_validity_quick.txt").read_text()


def test_the_counting_task_is_verified_and_its_hints_are_heeded():
    import random

    from validity.counting import ROLES, generate, training_rows, write_tally, write_to_fit
    from validity.counting_pair import question_of, verify

    from gradalign.demo.pupils import Care

    problems = generate(200, seed=0)
    assert all(problem.is_held_out for problem in problems)
    assert all(verify(p.response, p.answer) for p in problems)
    assert not any(verify(p.response, p.wrong_answer) for p in problems)
    rng = random.Random(0)
    for problem in problems:
        told = write_to_fit(problem, problem.wrong_answer, Care(drop=0.3), rng)
        assert told.endswith("," + problem.wrong_answer)
        assert told[::2][:8] == problem.word
    right = {
        name: np.mean([verify(write_tally(p, role.care, rng), p.answer) for p in problems])
        for name, role in ROLES.items()
    }
    assert right["strong"] == 1.0 > right["middle"] > right["student"] > right["weak"]
    rows = next(training_rows(replace(ROLES["student"], false_share=1.0), rng))
    assert len(rows) == 84
    assert question_of(problems[0]).contexts["answer"].startswith(f"[{problems[0].answer}]")
