"""Selective distillation: the same scored responses, and different tokens of them to learn from.

The pool is the responses that `gradalign.score` sampled and scored, all positions of each. Every
step takes half of its questions, computes the method's direction with the current student, sets
the rows of tokens that are not selected to zero, and moves by the same distance as everywhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import gradalign
from gradalign import methods
from validity.jobs import Job
from validity.pairs import Configuration, Pair, load_model
from validity.registry import pair_of
from validity.scoring import SCORE_DRAW
from validity.training import (
    Rollout,
    TrainSettings,
    logits_of,
    measure,
    move,
    node_batch,
    teacher_log_probs,
)

SELECTIONS = ("all", "positive", "negative", "random", "incorrect")
"""All tokens; those with positive (negative) alignment; as many at random as are positive; those of
incorrect responses."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pool:
    """Scored responses, questions in order, the same number of responses to each.

    Attributes:
        rolled: the responses with their rewards.
        cosine_N: alignment of every token with the ideal gradient, NaN where it is flat.
        group: responses per question.
    """

    rolled: Rollout
    cosine_N: npt.NDArray[np.float64]
    group: int


def pool_of(pair: Pair, report: gradalign.Report, configuration: Configuration) -> Pool:
    """Read the responses and the alignments of one configuration from a finished run."""
    config = report.metadata["config"]
    group, limit = int(config["num_rollouts"]), len(report.question_ids)
    known = {question.id: question for question in pair.questions(limit, SCORE_DRAW, False)}
    spines = report.spines.sort_values(["question_id", "spine_id"])
    frame = report.alignment
    frame = frame[
        (frame["teacher"] == configuration.teacher) & (frame["method"] == configuration.method)
    ]
    cosines = frame.assign(spine_id=frame["spine_id"].astype(str)).set_index(
        ["spine_id", "position"]
    )["cosine"]
    rows: list[dict[str, Any]] = spines.to_dict("records")
    cosine_N = np.concatenate(
        [
            [float(cosines.loc[(str(row["spine_id"]), at)]) for at in range(len(row["token_ids"]))]
            for row in rows
        ]
    )
    rolled = Rollout(
        questions=[known[str(row["question_id"])] for row in rows],
        response_ids=[np.asarray(row["token_ids"], dtype=np.int32) for row in rows],
        reward_B=np.asarray([float(row["reward"]) for row in rows]),
    )
    return Pool(rolled, cosine_N, group)


def select(pool: Pool, name: str, rng: np.random.Generator) -> Bools:
    """Which tokens of the pool a selection keeps, [N]."""
    lengths_B = [len(ids) for ids in pool.rolled.response_ids]
    with np.errstate(invalid="ignore"):
        positive_N, negative_N = pool.cosine_N > 0, pool.cosine_N < 0
    if name == "all":
        return np.ones(len(pool.cosine_N), dtype=np.bool_)
    if name == "positive":
        return positive_N
    if name == "negative":
        return negative_N
    if name == "incorrect":
        return np.repeat(pool.rolled.reward_B < 1.0, lengths_B)
    if name == "random":
        chosen_N = np.zeros(len(pool.cosine_N), dtype=np.bool_)
        chosen_N[rng.choice(len(chosen_N), int(positive_N.sum()), replace=False)] = True
        return chosen_N
    raise ValueError(f"unknown selection {name!r}; known: {', '.join(SELECTIONS)}")


def train_selected(
    pair: Pair,
    configuration: Configuration,
    settings: TrainSettings,
    pool: Pool,
    keep_N: Bools,
    rng: np.random.Generator,
) -> torch.nn.Module:
    """Train a fresh copy of the student on the kept tokens of the pool."""
    model = load_model(pair.student)
    teacher = load_model(configuration.teacher_model(pair.student))
    method = methods.get(configuration.method)
    rolled = pool.rolled
    teacher_NV = teacher_log_probs(pair, teacher, configuration, rolled)
    lengths_B = np.asarray([len(ids) for ids in rolled.response_ids])
    row_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    num_questions = len(lengths_B) // pool.group
    model.requires_grad_(True)
    for _ in range(settings.steps):
        questions = np.sort(rng.choice(num_questions, num_questions // 2, replace=False))
        rows = (questions[:, None] * pool.group + np.arange(pool.group)).ravel()
        part = Rollout(
            [rolled.questions[row] for row in rows],
            [rolled.response_ids[row] for row in rows],
            rolled.reward_B[rows],
        )
        inside_N = np.isin(row_N, rows)
        student = logits_of(pair, model, part)
        batch = node_batch(part, student, teacher_NV[torch.from_numpy(inside_N)], pool.group)
        ascent_NV = method.ascent(batch, configuration.estimator)  # type: ignore[arg-type]
        student.push(np.where(keep_N[inside_N, None], ascent_NV, 0.0))
        move(model, settings.step_norm)
    return model.requires_grad_(False)


def selection_job(job: Job) -> Job:
    """Train on one selection with one seed; `run` in the job is the folder of the scored run."""
    began = time.process_time()
    pair, settings = pair_of(job["pair"]), TrainSettings(**job["settings"])
    configuration = Configuration(**job["configuration"])
    pool = pool_of(pair, gradalign.read_report(str(Path(job["run"]))), configuration)
    rng = np.random.default_rng([job["seed"], 17])
    keep_N = select(pool, job["selection"], rng)
    model = train_selected(pair, configuration, settings, pool, keep_N, rng)
    gain = measure(pair, model, settings, job["seed"])
    return {
        "gain": gain.gain,
        "tokens": int(keep_N.sum()),
        "pool_tokens": len(keep_N),
        "cpu_seconds": round(time.process_time() - began, 2),
    }
