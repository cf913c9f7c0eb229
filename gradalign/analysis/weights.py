"""Alignment in the space of the weights, from the sketched updates of a run's questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gradalign.alignment.fieller import RatioSet
from gradalign.alignment.weights import (
    UpdateGrams,
    mean_of_questions,
    mean_of_shared,
    share_of_shared,
    update_estimate,
)
from gradalign.analysis.align import arms_of, question_ids
from gradalign.analysis.steps import batches
from gradalign.estimates import UNKNOWN, Arm, Estimate
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.weights.gradients import IDEAL, NO_TEACHER
from gradalign.store.shard import padded

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WeightsEstimate:
    """How a step of one arm agrees with the ideal one, in a space of weights.

    Attributes:
        cosine: of the expected ideal update and a step on the settings' batch of questions.
        gain: first-order gain in success of a step of length 1 on that batch.
        gain_one: the same of a step on a single question.
        product: what one question's update does for another's success, N.
        shared: squared length of what the updates of different questions share, s.
        between: variance of a question's update between questions, v_q.
        within: variance of a response's update within a question, v_r.
        shared_share: s / (s + v_q), which is low where a teacher tells every question its own.
        influence_Q: how far each question moves `gain`, [Q]; see `UpdateEstimate`.
        influence_one_Q: likewise of `gain_one`.
        influence_share_Q: likewise of `shared_share`.
        adamw: the gain of a step of AdamW on such a batch; unknown unless asked for.
        adamw_one: of one on a single question.
    """

    cosine: RatioSet
    gain: RatioSet
    gain_one: RatioSet
    product: Estimate
    shared: Estimate
    between: Estimate
    within: Estimate
    shared_share: RatioSet
    influence_Q: Floats
    influence_one_Q: Floats
    influence_share_Q: Floats
    adamw: Estimate = UNKNOWN
    adamw_one: Estimate = UNKNOWN


def weights_level(run: Run) -> dict[tuple[Arm, str], WeightsEstimate]:
    """Return alignment in the weights by arm and split, from the table `gradients`.

    A question that a teacher was not shown counts as an update of 0. The settings' batch is
    `weights_batch` questions, each with `num_rollouts` responses. Of a split, the update is what
    its nodes alone ask for, and the ideal one is whole. Memory is two sketches per question, and
    those of all steps of AdamW where they were asked for.
    """
    ideal_QD = ideal_sketches(run)
    ideal_QQ = ideal_QD @ ideal_QD.T
    found = {}
    steps = {} if run.config.weights_adamw is None else adamw_sketches(run)
    for arm in arms_of(run):
        for split, own in question_updates(run, arm).items():
            found[arm, split] = _estimate(run, _grams(ideal_QD, ideal_QQ, own), own)
        if run.config.weights_adamw is not None:
            batch, one = _adamw(run, steps.get(arm, {}), ideal_QD)
            found[arm, "all"] = replace(found[arm, "all"], adamw=batch, adamw_one=one)
    return found


def _adamw(
    run: Run, steps: Mapping[tuple[str, ...], Floats], ideal_QD: Floats
) -> tuple[Estimate, Estimate]:
    """Return the gain of a step of AdamW of length 1 on a batch, and on one question.

    The step on some questions meets the ideal updates of all others, batch by batch: the mean over
    pairs of different batches, with the delete-one jackknife over batches. Batches of one question
    each are questions.
    """
    place = {question: number for number, question in enumerate(question_ids(run))}

    def gain(groups: Sequence[Sequence[str]]) -> Estimate:
        if len(groups) < 2:
            return UNKNOWN
        rows = [[place[name] for name in group] for group in groups]
        ideal_JD = np.stack([ideal_QD[own].mean(axis=0) for own in rows])
        step_JD = np.stack([steps[tuple(group)] for group in groups])
        cross_JJ = ideal_JD @ step_JD.T
        return mean_of_shared(0.5 * (cross_JJ + cross_JJ.T))[0]

    whole = [batch.questions for batch in batches(run) if batch.whole]
    return gain(whole), gain([(name,) for name in place])


def adamw_sketches(run: Run) -> dict[Arm, dict[tuple[str, ...], Floats]]:
    """Return steps of AdamW as sketches, by arm and the questions that each is taken on."""
    steps: dict[Arm, dict[tuple[str, ...], Floats]] = {}
    for shard in run.folder.files("steps"):  # one where no batch begins has none
        table = run.folder.read_table("steps", shard)
        keys = (table[name].to_pylist() for name in ("teacher", "method", "question_ids"))
        for teacher, method, names, sketch in zip(*keys, table["sketch"], strict=True):
            own = steps.setdefault(Arm(teacher, method), {})
            own[tuple(names)] = sketch.values.to_numpy().astype(np.float64)
    return steps


def _estimate(run: Run, grams: UpdateGrams, own: QuestionUpdates) -> WeightsEstimate:
    batch = update_estimate(grams, step=run.config.weights_batch)
    one = update_estimate(grams, step=1)
    shared, shared_Q = mean_of_shared(grams.method_QQ)
    between_Q = np.where(np.isnan(own.within2_Q), own.length2_Q, own.within2_Q)
    share, share_Q = share_of_shared(grams.method_QQ, between_Q)
    return WeightsEstimate(
        cosine=batch.cosine,
        gain=batch.gain,
        gain_one=one.gain,
        product=mean_of_shared(0.5 * (grams.cross_QQ + grams.cross_QQ.T))[0],
        shared=shared,
        between=mean_of_questions(between_Q, less=(shared.value, shared_Q)),
        within=mean_of_questions(own.response_variance_Q),
        shared_share=share,
        influence_Q=batch.influence_Q,
        influence_one_Q=one.influence_Q,
        influence_share_Q=share_Q,
    )


def weight_grams(run: Run) -> Iterator[tuple[Arm, UpdateGrams, QuestionUpdates]]:
    """Yield every arm with the inner products of its questions' updates, and these themselves."""
    ideal_QD = ideal_sketches(run)
    ideal_QQ = ideal_QD @ ideal_QD.T
    for arm in arms_of(run):
        own = question_updates(run, arm)["all"]
        yield arm, _grams(ideal_QD, ideal_QQ, own), own


def _grams(ideal_QD: Floats, ideal_QQ: Floats, own: QuestionUpdates) -> UpdateGrams:
    cross_QQ = ideal_QD @ own.sketch_QD.T
    method_QQ = own.sketch_QD @ own.sketch_QD.T
    return UpdateGrams(cross_QQ, ideal_QQ, method_QQ, own.length2_Q)


@dataclass(frozen=True, eq=False)
class QuestionUpdates:
    """One arm's rows of the table `gradients`, a question each; see there."""

    sketch_QD: Floats
    length2_Q: Floats
    within2_Q: Floats
    response_variance_Q: Floats


NUMBERS = ("length2", "within2", "response_variance")


def ideal_sketches(run: Run) -> Floats:
    """Return the questions' ideal updates as sketches, [Q, D]."""
    return question_updates(run, Arm(NO_TEACHER, IDEAL))["all"].sketch_QD


def question_updates(run: Run, arm: Arm) -> dict[str, QuestionUpdates]:
    """Return an arm's updates by split; a question without a row has 0."""
    place = {question: number for number, question in enumerate(question_ids(run))}
    parts: dict[str, list[tuple[Ints, Floats, list[Floats]]]] = {"all": []}
    for shard in run.shards():
        table = run.folder.read_table("gradients", teacher_file(shard, arm.teacher))
        table = table.filter(pc.equal(table["method"].cast(pa.string()), arm.method))
        split_M = np.full(len(table), "all", dtype=object)
        if "split" in table.column_names:  # not in tables of an older version
            split_M = np.array(table["split"].to_pylist(), dtype=object)
        for split in dict.fromkeys(split_M):
            own = table.take(np.flatnonzero(split_M == split))
            rows = np.array([place[str(name)] for name in own["question_id"].to_pylist()])
            sketch_MD, _ = padded(own["sketch"], 0.0)
            numbers = [own[name].to_numpy() for name in NUMBERS]
            parts.setdefault(split, []).append((rows, sketch_MD, numbers))
    found = {}
    for split, pieces in parts.items():
        width = max((sketch_MD.shape[1] for _, sketch_MD, _ in pieces), default=1)
        sketch_QD = np.zeros((len(place), width))
        numbers_Q = [np.zeros(len(place)) for _ in NUMBERS]
        for rows, sketch_MD, numbers in pieces:
            sketch_QD[rows] = sketch_MD
            for whole_Q, values in zip(numbers_Q, numbers, strict=True):
                whole_Q[rows] = values
        found[split] = QuestionUpdates(sketch_QD, *numbers_Q)
    return found
