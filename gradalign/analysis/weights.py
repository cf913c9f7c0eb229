"""Alignment in the space of the weights, from the sketched updates of a run's questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.alignment.fieller import RatioSet
from gradalign.alignment.weights import (
    UpdateGrams,
    mean_of_questions,
    mean_of_shared,
    update_estimate,
)
from gradalign.analysis.align import NO_TEACHER, arms_of
from gradalign.estimates import Arm, Estimate
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.gradients import IDEAL
from gradalign.store.shard import padded

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeightsEstimate:
    """How a step of one arm agrees with the ideal one, in a space of weights.

    Attributes:
        cosine: of the expected ideal update and a step on the settings' batch of questions.
        gain: first-order gain in success of a step of length 1 on that batch.
        gain_one: the same of a step on a single question.
        shared: squared length of what the updates of different questions share, s.
        between: variance of a question's update between questions, v_q.
        within: variance of a response's update within a question, v_r.
        influence_Q: how far each question moves `gain`, [Q]; see `UpdateEstimate`.
        influence_one_Q: likewise of `gain_one`.
    """

    cosine: RatioSet
    gain: RatioSet
    gain_one: RatioSet
    shared: Estimate
    between: Estimate
    within: Estimate
    influence_Q: Floats
    influence_one_Q: Floats


def weights_level(run: Run) -> dict[Arm, WeightsEstimate]:
    """Return alignment in the weights of every teacher and method, from the table `gradients`.

    A question that a teacher was not shown counts as an update of 0. The settings' batch is
    `weights_batch` questions, each with `num_rollouts` responses. Memory is two sketches per
    question.
    """
    found = {}
    for arm, grams, own in weight_grams(run):
        batch = update_estimate(grams, step=run.config.weights_batch)
        one = update_estimate(grams, step=1)
        shared, shared_Q = mean_of_shared(grams.method_QQ)
        between_Q = np.where(np.isnan(own.within2_Q), own.length2_Q, own.within2_Q)
        found[arm] = WeightsEstimate(
            cosine=batch.cosine,
            gain=batch.gain,
            gain_one=one.gain,
            shared=shared,
            between=mean_of_questions(between_Q, less=(shared.value, shared_Q)),
            within=mean_of_questions(own.response_variance_Q),
            influence_Q=batch.influence_Q,
            influence_one_Q=one.influence_Q,
        )
    return found


def question_ids(run: Run) -> list[str]:
    """Return the questions in the order of influences."""
    return [
        str(question)
        for shard in run.shards()
        for question in run.folder.read_table("questions", shard)["question_id"].to_pylist()
    ]


def weight_grams(run: Run) -> Iterator[tuple[Arm, UpdateGrams, QuestionUpdates]]:
    """Yield every arm with the inner products of its questions' updates, and these themselves."""
    ideal_QD = _read(run, Arm(NO_TEACHER, IDEAL)).sketch_QD
    ideal_QQ = ideal_QD @ ideal_QD.T
    for arm in arms_of(run):
        own = _read(run, arm)
        cross_QQ = ideal_QD @ own.sketch_QD.T
        method_QQ = own.sketch_QD @ own.sketch_QD.T
        yield arm, UpdateGrams(cross_QQ, ideal_QQ, method_QQ, own.length2_Q), own


@dataclass(frozen=True, eq=False)
class QuestionUpdates:
    """One arm's rows of the table `gradients`, a question each; see there."""

    sketch_QD: Floats
    length2_Q: Floats
    within2_Q: Floats
    response_variance_Q: Floats


def _read(run: Run, arm: Arm) -> QuestionUpdates:
    place = {question: number for number, question in enumerate(question_ids(run))}
    numbers = {name: np.zeros(len(place)) for name in ("length2", "within2", "response_variance")}
    sketch_QD: Floats | None = None
    for shard in run.shards():
        table = run.folder.read_table("gradients", teacher_file(shard, arm.teacher))
        keep = np.flatnonzero(np.array(table["method"].to_pylist(), dtype=object) == arm.method)
        table = table.take(keep)
        rows = [place[str(question)] for question in table["question_id"].to_pylist()]
        if not rows:
            continue
        found, _ = padded(table["sketch"], 0.0)
        if sketch_QD is None:
            sketch_QD = np.zeros((len(place), found.shape[1]))
        sketch_QD[rows] = found
        for name, values_Q in numbers.items():
            values_Q[rows] = table[name].to_numpy()
    if sketch_QD is None:
        sketch_QD = np.zeros((len(place), 1))
    return QuestionUpdates(
        sketch_QD, numbers["length2"], numbers["within2"], numbers["response_variance"]
    )
