"""The moved student: what it is where it has not moved, and that it comes back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradalign.analysis.gradients import WHOLE, StoredPushes
from gradalign.estimates import Arm
from gradalign.models.gradients import LogitGradients
from gradalign.rehearsal.moved import (
    NO_TEACHER,
    StoredResponses,
    moved,
    passes,
    taught_by_itself,
)
from gradalign.rehearsal.virtual import VirtualStudent
from gradalign.stages.base import Resolved, Run
from gradalign.stages.weights.gradients import open_space, responses_of
from gradalign.store.shard import read_shard


@pytest.fixture(scope="module")
def run(small_run):
    return Run(small_run.config, Resolved(**small_run.metadata["resolved"]))


@pytest.fixture(scope="module")
def space(run):
    with open_space(run) as opened:
        yield opened


@pytest.fixture(scope="module")
def student(run, space):
    return VirtualStudent(run, *space)


def some_direction(parameters, length):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(p.shape, generator=generator) for p in parameters]
    norm = math.sqrt(sum(float(part.square().sum()) for part in parts))
    return [length * part / norm for part in parts]


def test_weights_come_back_bit_for_bit_also_after_an_error(space):
    _, parameters = space
    before = [p.detach().clone() for p in parameters]
    away = []

    def fails():
        with moved(parameters, some_direction(parameters, 1.0)):
            away.append(torch.equal(parameters[0], before[0]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert away == [False]
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize("label", ["demo:strong", "self+answer", NO_TEACHER])
def test_where_it_has_not_moved_nodes_are_those_of_the_run(run, space, label):
    stored = StoredResponses(run, run.shards()[0])
    view = stored.view(label)
    seen = 0
    for read in passes(stored, space[0], range(len(stored.spines))):
        old = dict(zip(read.numbers, read.logprobs, strict=True))
        batch, place_M = read.moved_batch(label, [old.get(i) for i in range(len(stored.spines))])
        rows = [list(view.rows).index(row) for row in read.node_N[place_M]]
        seen += len(rows)
        for name in ("log_p_NS", "log_q_NS", "log_tail_q_N"):
            there, expected = getattr(batch, name), getattr(view.batch, name)[rows]
            np.testing.assert_allclose(there, expected, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(
            np.exp(batch.log_p_NS).sum(axis=1) + np.exp(batch.log_tail_p_N), 1.0, atol=1e-6
        )
        np.testing.assert_array_equal(batch.ids_NS, view.batch.ids_NS[rows])
    assert seen == len(view.rows)


@pytest.mark.parametrize(
    "arm", [Arm("demo:strong", "gkd"), Arm("self+answer", "opd"), Arm("", "dr_grpo")], ids=str
)
def test_the_first_update_is_the_one_of_the_stored_directions(run, space, student, arm):
    model, parameters = space
    update = student.update(arm, student.questions, None)
    total = [torch.zeros_like(p) for p in parameters]
    for shard in run.shards():
        pushes = StoredPushes(run, shard)
        for _, spines in read_shard(run.folder, shard).by_question():
            gradients = LogitGradients(responses_of(run, model, spines, pushes.places), parameters)
            own = gradients.along(pushes.of(arm, WHOLE, spines, pushes.places.weight))
            for part, new in zip(total, own, strict=True):
                part += new / len(spines) / len(student.questions)
    apart = sum(float((a - b).square().sum()) for a, b in zip(update.direction, total, strict=True))
    # Stored directions leave out what is below 1e-4 of their squared length.
    assert apart < 1e-3 * update.length2
    assert update.length2 == pytest.approx(
        sum(float(part.square().sum()) for part in total), rel=0.02
    )


def test_what_groups_share_is_the_mean_product_of_different_questions(student):
    arm = Arm("demo:strong", "gkd")
    whole = student.update(arm, student.questions, None)
    single = [student.update(arm, [name], None).direction for name in student.questions]
    products = [
        sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
        for i, one in enumerate(single)
        for j, other in enumerate(single)
        if i != j
    ]
    lengths = [sum(float(a.square().sum()) for a in one) for one in single]
    assert whole.shared2 == pytest.approx(np.mean(products), rel=1e-3)
    assert whole.noise2 == pytest.approx(np.mean(lengths) - np.mean(products), rel=1e-3)


def test_the_variance_of_weights_adds_up_to_the_noise(student):
    arm = Arm("demo:strong", "gkd")
    update = student.update(arm, student.questions, None, with_variance=True)
    assert update.variance is not None
    total = sum(float(part.sum()) for part in update.variance)
    assert total == pytest.approx(update.noise2, rel=1e-3)


def test_a_small_move_gains_what_first_order_says_and_none_gains_nothing(space, student):
    _, parameters = space
    nothing = [torch.zeros_like(p) for p in parameters]
    for found in student.gains(student.questions, nothing):
        assert found.gain == pytest.approx(0.0, abs=1e-6)
        assert found.ratios == pytest.approx(1.0, abs=1e-5)
    along = student.update(Arm("demo:strong", "opd"), student.questions, None)
    unit = 1.0 / math.sqrt(along.length2)

    def gain(length):
        place = [length * unit * part for part in along.direction]
        return float(np.mean([item.gain for item in student.gains(student.questions, place)]))

    one, two = gain(3e-4), gain(6e-4)
    assert abs(one) > 1e-5
    assert two == pytest.approx(2 * one, rel=0.1)
    assert gain(-3e-4) == pytest.approx(-one, rel=0.1)


def test_a_teacher_that_moves_with_the_student_is_the_fixed_one_before_the_first_step(
    run, space, student
):
    moving = run.config.model_copy(update={"rehearse_self": "moving"})
    other = VirtualStudent(Run(moving, run.resolved), *space)
    arm, questions = Arm("self+answer", "opd"), student.questions
    one, same = (item.update(arm, questions, None).direction for item in (student, other))
    apart = sum(float((a - b).square().sum()) for a, b in zip(one, same, strict=True))
    assert apart < 1e-6 * sum(float(a.square().sum()) for a in one)
    away = [10 * part / 100 for part in one]
    one, same = (item.update(arm, questions, away).direction for item in (student, other))
    apart = sum(float((a - b).square().sum()) for a, b in zip(one, same, strict=True))
    assert apart > 1e-3 * sum(float(a.square().sum()) for a in one)
    # A teacher of another checkpoint stays.
    arm = Arm("demo:strong", "opd")
    one, same = (item.update(arm, questions, away).direction for item in (student, other))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_a_teacher_that_moves_says_what_the_moved_student_says(run, space):
    stored = StoredResponses(run, run.shards()[0])
    prompts = {item.spine_id: list(item.prompt_ids) for item in stored.spines}
    with moved(space[1], some_direction(space[1], 0.05)):
        for read in passes(stored, space[0], range(len(stored.spines))):
            taught = taught_by_itself(read, space[0], prompts)
            for own, again in zip(read.logprobs, taught.logprobs, strict=True):
                np.testing.assert_allclose(again, own, atol=1e-5)


def test_a_mixture_is_the_sum_of_its_parts_also_across_teachers(student):
    questions = student.questions

    def direction(teacher, method):
        return student.update(Arm(teacher, method), questions, None).direction

    opd, reward = direction("demo:strong", "opd"), direction("", "dr_grpo")
    told = direction("self+answer", "gkd")
    mixed = direction("demo:strong", "dr_grpo+0.3*opd")
    across = direction("", "opd@demo:strong+-2*gkd@self+answer")
    for k in range(len(opd)):
        for found, expected in (
            (mixed[k], reward[k] + 0.3 * opd[k]),
            (across[k], opd[k] - 2 * told[k]),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
