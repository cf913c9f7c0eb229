"""What else is said to predict training, per teacher, against its own formula written out."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import PROVOKED

import gradalign
from gradalign.alignment.grace import grace
from gradalign.models import loaded_model
from gradalign.models.weight_space import Sketch
from gradalign.questions import Question
from gradalign.report.report import Report
from gradalign.stages.weights.answer_gradients import WIDTH
from gradalign.verifiers import VerifierPool

ASKED = 6
SETTINGS = {
    **PROVOKED,
    "teachers": ["demo:strong", "self+answer"],
    "methods": ["opd", "dr_grpo"],
    "limit": 8,
    "num_rollouts": 2,
    "nodes": 3,
    "continuations": 4,
    "shard_size": 4,
    "diagnose": ["rivals"],
    "teacher_accuracy": ASKED,
    "control": True,
}
TEACHERS = ("demo:strong", "self+answer", "self+wrong-answer")


@pytest.fixture(scope="module")
def rivals_run(finished_runs) -> Report:
    return finished_runs.get(**SETTINGS)


def figure(report, teacher, name, split="all"):
    frame = report.diagnostics_summary
    keys = {"mechanism": "rivals", "teacher": teacher, "diagnostic": name, "split": split}
    for column, value in keys.items():
        frame = frame[frame[column].astype(str) == value]
    (row,) = frame.to_dict("records")
    return row


def divergence(first, second):
    return sum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True) if a > -math.inf)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_divergences_are_means_over_positions(rivals_run, teacher):
    """Nodes stand for positions: each counts by one over its probability of being chosen."""
    weight = dict(
        zip(
            rivals_run.nodes["node_id"].astype(str),
            1.0 / rivals_run.nodes["inclusion_prob"],
            strict=True,
        )
    )
    assert len(set(weight.values())) > 1
    table = rivals_run.table("distributions")
    sums = {"reverse_kl": 0.0, "forward_kl": 0.0}
    total = 0.0
    for row in table[table["teacher"].astype(str) == teacher].to_dict("records"):
        p = [*row["student_logprobs"].tolist(), row["student_log_tail"]]
        q = [*row["teacher_logprobs"].tolist(), row["teacher_log_tail"]]
        own = weight[str(row["node_id"])]
        sums["reverse_kl"] += own * divergence(p, q)
        sums["forward_kl"] += own * divergence(q, p)
        total += own
    for name, value in sums.items():
        assert figure(rivals_run, teacher, name)["value"] == pytest.approx(value / total, rel=1e-5)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_entropy_and_overlap_are_means_over_all_positions(rivals_run, teacher):
    tokens = rivals_run.table("tokens")
    own = tokens[tokens["teacher"].astype(str) == teacher]
    assert len(own) == rivals_run.spines["num_tokens"].sum()
    gap = own["teacher_entropy"].astype(float).mean() - own["student_entropy"].astype(float).mean()
    found = figure(rivals_run, teacher, "entropy_difference")
    assert found["value"] == pytest.approx(gap, abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    overlap = figure(rivals_run, teacher, "overlap_ratio")["value"]
    assert overlap == pytest.approx(own["overlap_ratio"].astype(float).mean(), abs=1e-6)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_advantage_is_that_of_the_summary(rivals_run, teacher):
    summary = rivals_run.summary
    row = summary[(summary["teacher"] == teacher) & (summary["split"] == "all")]
    found = figure(rivals_run, teacher, "teacher_advantage")["value"]
    assert found == pytest.approx(row["teacher_advantage"].item(), abs=1e-9)


def questions(report):
    records = report.table("questions")["record"]
    return [Question.from_record(json.loads(record)) for record in records]


@pytest.mark.parametrize("teacher", TEACHERS)
def test_accuracy_is_of_the_first_questions_and_the_gap_is_paired(rivals_run, teacher):
    answers = rivals_run.table("teacher_answers")
    own = answers[answers["teacher"].astype(str) == teacher]
    first = questions(rivals_run)[:ASKED]
    assert own["question_id"].astype(str).tolist() == [question.id for question in first]
    with VerifierPool("demo:addition", 1, 10.0) as pool:
        judged = pool.score(list(zip(own["text"], first, strict=True)))
    wanted = [
        verdict.reward if reason == "stop" else 0.0
        for verdict, reason in zip(judged, own["finish_reason"], strict=True)
    ]
    assert own["reward"].tolist() == wanted
    assert figure(rivals_run, teacher, "accuracy")["value"] == pytest.approx(np.mean(wanted))
    success = [
        rivals_run.spines.query("question_id == @question.id")["reward"].mean()
        for question in first
    ]
    gap = figure(rivals_run, teacher, "accuracy_gap")
    assert gap["value"] == pytest.approx(np.mean(wanted) - np.mean(success), abs=1e-12)
    assert gap["num_questions"] == ASKED


def test_teachers_answer_in_their_contexts(rivals_run):
    """The same checkpoint is right where it is told the answer and wrong where a false one."""
    assert figure(rivals_run, "self+answer", "accuracy")["value"] > 0.8
    assert figure(rivals_run, "self+wrong-answer", "accuracy")["value"] < 0.2
    assert figure(rivals_run, "demo:strong", "accuracy_gap")["value"] > 0.2


def answers_of(report):
    columns = ["teacher", "question_id", "text", "reward", "seed"]
    frame = report.table("teacher_answers", columns).astype({"teacher": str, "question_id": str})
    return frame.sort_values(["teacher", "question_id"]).reset_index(drop=True)


def test_what_was_cut_off_is_answered_alike_and_more_can_be_asked(rivals_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(rivals_run.path, folder)
    files = sorted((folder / "teacher_answers").iterdir())
    files[0].unlink()
    again = gradalign.score(**SETTINGS, output_dir=str(folder))
    assert answers_of(again).equals(answers_of(rivals_run))
    more = gradalign.score(**SETTINGS | {"teacher_accuracy": 8}, output_dir=str(folder))
    frame = answers_of(more)
    assert frame.groupby("teacher").size().tolist() == [8, 8, 8]
    merged = frame.merge(answers_of(rivals_run), on=["teacher", "question_id"])
    assert (merged["text_x"] == merged["text_y"]).all()
    assert len(merged) == 3 * ASKED
    assert figure(more, "demo:strong", "accuracy")["num_questions"] == 8


def test_answers_follow_teachers_and_verifiers(rivals_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(rivals_run.path, folder)
    more = gradalign.rescore(str(folder), teachers=["demo:weak"])
    assert figure(more, "demo:weak", "accuracy")["num_questions"] == ASKED
    assert answers_of(more).groupby("teacher").size().tolist() == [ASKED] * 4
    judged = gradalign.rescore(str(folder), verifier="exact")
    assert not (Path(judged.path) / "teacher_answers").exists()
    assert judged.metadata["config"]["teacher_accuracy"] == 0


def test_off_by_default(small_run):
    assert not small_run.folder.files("teacher_answers")
    names = set(small_run.diagnostics_summary["diagnostic"].astype(str))
    assert {"reverse_kl", "entropy_difference"} <= names
    assert "accuracy" not in names


# GRACE


def grace_by_hand(rows_QD, split, smoothing=1e-3):
    """Of one split: eigenvalues smoothed one by one, and traces of outer products written out."""
    order = np.random.default_rng(split).permutation(len(rows_QD))
    held = max(1, len(rows_QD) // 10)
    own, other = rows_QD[order[:-held]], rows_QD[order[-held:]]
    kernel = sum(np.outer(g, g) / (g @ g) for g in own) / len(own)
    values, vectors = np.linalg.eigh(kernel)
    values = (1 - smoothing) * values + smoothing * values.mean()
    inverse = sum(np.outer(v, v) / value for v, value in zip(vectors.T, values, strict=True))
    return np.trace(inverse @ (sum(np.outer(g, g) for g in other) / len(other)))


@pytest.mark.parametrize("count", [7, 40])
def test_grace_is_that_of_its_definition(count):
    rows_QD = np.random.default_rng(0).normal(size=(count, 12)) + 0.5
    wanted = np.mean([grace_by_hand(rows_QD, split) for split in range(10)])
    assert grace(rows_QD) == pytest.approx(wanted, rel=1e-8)


def test_grace_is_low_where_questions_agree_and_unknown_without_two():
    rng = np.random.default_rng(1)
    alike = np.tile(rng.normal(size=12), (40, 1))
    apart, own = rng.normal(size=(40, 12)), np.zeros((40, 40))
    own[np.diag_indices(40)] = 1.0  # what one question asks for, no other has
    alike, apart = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (alike, apart))
    assert grace(alike) == pytest.approx(1.0, rel=1e-2)
    assert grace(alike) < 0.2 * grace(apart)
    assert grace(apart) < 0.1 * grace(own)
    assert np.isnan(grace(alike[:1]))
    assert np.isnan(grace(np.zeros((5, 3))))


@pytest.fixture(scope="module")
def gradients_run(finished_runs) -> Report:
    settings = SETTINGS | {"teachers": ["demo:strong"], "limit": 5, "control": False}
    return finished_runs.get(**settings, alignment=["weights"])


def test_gradients_are_those_of_the_answers_by_heart(gradients_run):
    answers = gradients_run.table("teacher_answers")
    prompts = gradients_run.questions.set_index("question_id")["prompt_ids"]
    stored = gradients_run.table("answer_gradients").set_index("question_id")["sketch"]
    assert len(stored) == len(answers) == 5
    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        parameters = list(model.parameters())
        sketch = Sketch(parameters, WIDTH)
        model.requires_grad_(True)
        for row in answers.itertuples():
            prompt, answer = prompts[row.question_id].tolist(), row.token_ids.tolist()
            ids = torch.tensor([[*prompt, *answer]])
            labels = ids.clone()
            labels[0, : len(prompt)] = -100
            loss = model(input_ids=ids, labels=labels).loss
            wanted = sketch.of(torch.autograd.grad(loss, parameters)).numpy()
            size = np.abs(wanted).max()
            np.testing.assert_allclose(stored[row.question_id], wanted, atol=1e-4 * size)
    found = figure(gradients_run, "demo:strong", "grace")
    assert found["value"] == pytest.approx(grace(np.stack(stored.tolist())), rel=1e-6)
    assert found["num_questions"] == 5
    assert np.isnan(found["low"])


def test_grace_needs_both_answers_and_gradients(rivals_run):
    assert not rivals_run.folder.files("answer_gradients")
    assert "grace" not in set(rivals_run.diagnostics_summary["diagnostic"].astype(str))
