"""Alignment of every configuration by `gradalign.score`, and what people use today instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gradalign
from gradalign.engines import Request, SamplingSettings, derive_seed
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.questions import Question
from validity.pairs import Configuration, Pair, context_ids, load_model, tokenizer_of

SCORE_DRAW = 5
"""Seed of the training-split questions that are scored; training draws others."""


COLUMNS = {
    "pooled": "pooled",
    "pooled_low": "pooled_low",
    "pooled_high": "pooled_high",
    "mean": "mean_cosine",
    "balanced": "balanced",
    "weights": "weights",
    "weights_low": "weights_low",
    "weights_high": "weights_high",
    "gain_one": "weights_gain_one",
    "gain_batch": "weights_gain",
    "teacher_advantage": "teacher_advantage",
}
"""What is taken from the summary of a run, under the names of this benchmark."""


@dataclass(frozen=True)
class ScoreSettings:
    """The budget of `gradalign.score`.

    Attributes:
        questions: training-split questions.
        spines: responses per question; every position of each is a node.
        continuations: targeted rollouts per candidate, on average.
        max_candidates: per node.
        min_prob: what the student must give a teacher's top token for it to be a candidate.
    """

    questions: int = 128
    spines: int = 2
    continuations: int = 8
    max_candidates: int = 8
    min_prob: float = 0.01


def score(
    pair: Pair, settings: ScoreSettings, folder: Path, *, weights: bool = False
) -> gradalign.Report:
    """Score all teachers and methods of a pair; a finished run in `folder` is taken as it is.

    Args:
        pair: what is scored.
        settings: how.
        folder: for the run.
        weights: in the space of the weights too, with every teacher's own answers: GRACE is of
            the student's gradients on them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    questions = folder / "questions.jsonl"
    rows = [_row(question) for question in pair.questions(settings.questions, SCORE_DRAW, False)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return gradalign.score(
        student=pair.student,
        teachers=pair.teachers,
        methods=pair.methods,
        task=str(questions),
        verifier=pair.verifier,
        output_dir=str(folder / "run"),
        num_rollouts=settings.spines,
        continuations=settings.continuations,
        max_candidates=settings.max_candidates,
        min_prob=settings.min_prob,
        node_sampler="all",
        max_tokens=pair.max_tokens,
        engine="transformers",
        device="cpu",
        diagnose=["overlap", "rivals"],
        control=False,  # the pair's teachers are all that is compared
        alignment="weights" if weights else "pooled",
        teacher_accuracy=settings.questions if weights else 0,
        seed=1,
    )


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "prompt": question.prompt,
        "answer": question.answer,
        "solution": question.solution,
        "contexts": dict(question.contexts),
    }


def alignments(report: gradalign.Report, pair: Pair) -> dict[Configuration, dict[str, float]]:
    """What the tool says of each configuration that has an alignment, with intervals."""
    summary = report.summary.query("split == 'all'").set_index(["teacher", "method"])
    found = {}
    for item in pair.configurations:
        if (item.teacher, item.method) in summary.index:
            row = summary.loc[(item.teacher, item.method)]
            found[item] = {name: float(row[column]) for name, column in COLUMNS.items()}
    return found


def teacher_accuracies(pair: Pair, count: int) -> dict[str, float]:
    """Every teacher's own success in its context, on some questions."""
    return {
        teacher: teacher_accuracy(pair, Configuration(teacher, "opd"), count)
        for teacher in pair.teachers
    }


def cheap_predictors(
    report: gradalign.Report, pair: Pair, accuracies: Mapping[str, float], student: float
) -> dict[str, dict[str, float]]:
    """What can be had without targeted rollouts, per teacher.

    `accuracy_gap`: accuracy less the student's, which ranks teachers as accuracy does, because
    they have one student; `reverse_kl`, `forward_kl`: mean over the student's responses;
    `overlap`: mean share of the two top-16 sets that coincide; `entropy_gap`: the teacher's less
    the student's mean entropy on the student's responses; `grace`: of the teacher's answers to the
    run's questions, where the run has them.

    Args:
        report: a run in which every position is a node.
        pair: its pair.
        accuracies: of `teacher_accuracies`.
        student: the student's own success.
    """
    tokens = report.table("tokens", ["teacher", "student_entropy", "teacher_entropy"])
    rise = tokens["teacher_entropy"].astype(float) - tokens["student_entropy"].astype(float)
    rises = rise.groupby(tokens["teacher"].astype(str)).mean()
    frame = report.diagnostics.groupby("teacher", observed=True)[
        ["reverse_kl", "forward_kl", "overlap_ratio"]
    ].mean()
    rivals = report.diagnostics_summary.query("diagnostic == 'grace' and split == 'all'")
    grace = dict(zip(rivals["teacher"].astype(str), rivals["value"], strict=True))
    found: dict[str, dict[str, float]] = {}
    for teacher in pair.teachers:
        row = frame.loc[teacher]
        found[teacher] = {
            "accuracy": accuracies[teacher],
            "accuracy_gap": accuracies[teacher] - student,
            "reverse_kl": float(row["reverse_kl"]),
            "forward_kl": float(row["forward_kl"]),
            "overlap": float(row["overlap_ratio"]),
            "entropy_gap": float(rises[teacher]),
            "grace": float(grace.get(teacher, np.nan)),
        }
    return found


def teacher_accuracy(pair: Pair, configuration: Configuration, count: int) -> float:
    """Success of a teacher that answers by itself, told what its context tells."""
    questions: Sequence[Question] = pair.questions(count, SCORE_DRAW, False)
    tokenizer = tokenizer_of(pair.student)
    model = load_model(configuration.teacher_model(pair.student))
    sampling = SamplingSettings(stop_token_ids=(tokenizer.eos_token_id,))
    requests = [
        Request(
            context_ids(pair, question, configuration.context),
            pair.max_tokens,
            derive_seed(3, question.id, (), 0),
        )
        for question in questions
    ]
    with TransformersEngine(model, sampling=sampling) as engine:
        drawn = dict(engine.generate(requests))
    texts = tokenizer.batch_decode(
        [drawn[index].token_ids for index in range(len(requests))], skip_special_tokens=True
    )
    rewards = [
        pair.verify(text, question.answer or "")
        for text, question in zip(texts, questions, strict=True)
    ]
    return float(np.mean(rewards))
