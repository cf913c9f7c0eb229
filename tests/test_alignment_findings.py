"""What is said of a number, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradalign.alignment.fieller import RatioSet, pooled_set
from gradalign.alignment.findings import (
    TOO_FEW,
    cosine_finding,
    mean_finding,
    pooled_finding,
    why_unsaid,
)
from gradalign.alignment.scores import ALL_FLAT, NO_DIRECTION, pooling_columns


def made(seed: int, questions: int, noise: float = 0.0) -> np.ndarray:
    """Per-question sums of a method at an alignment of about 0.7."""
    rng = np.random.default_rng(seed)
    ideal_QX = rng.normal(size=(questions, 20))
    method_QX = ideal_QX + rng.normal(size=ideal_QX.shape)
    length_Q = (ideal_QX**2).sum(axis=1) + noise * rng.normal(size=questions)
    return pooling_columns((ideal_QX * method_QX).sum(axis=1), length_Q, (method_QX**2).sum(axis=1))


def test_a_settled_number_has_its_value_and_fieller_s_interval():
    sums_QY = made(0, 40)
    found, exact = pooled_finding(sums_QY), pooled_set(sums_QY)
    assert found.span == (exact.value, exact.low, exact.high)
    assert why_unsaid(sums_QY, found) == ""
    # The standard error is the delete-one jackknife's, to first order.
    without = [pooled_set(np.delete(sums_QY, q, axis=0)).value for q in range(40)]
    assert found.se == pytest.approx(math.sqrt(39) * np.std(without), rel=0.05)


def test_an_unbounded_set_is_no_value_but_too_few_questions():
    sums_QY = made(1, 4, noise=60.0)
    while pooled_set(sums_QY).bounded or not sums_QY[:, 1].sum() > 0:
        sums_QY = made(int(abs(sums_QY[0, 0]) * 1e6) % 10_000, 4, noise=60.0)
    found = pooled_finding(sums_QY)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert why_unsaid(sums_QY, found) == TOO_FEW


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.0, 1.0, True), (-0.6, 0.4, True), (-0.1, 1.0, False), (-3.0, 0.2, False)],
)
def test_a_number_that_is_open_by_more_than_a_half_is_not_said(low, high, said):
    found = cosine_finding(RatioSet(0.2, low, high))
    assert found.known == said
    assert found.low == max(low, -1.0)
    assert found.high == high
    assert not (found.positive or found.negative) or said


def test_what_is_not_said_gives_no_advice():
    found = cosine_finding(RatioSet(0.8, 0.1, 1.5))
    assert (found.low, found.high) == (0.1, 1.0)
    assert not found.positive
    assert not found.excludes_zero


@pytest.mark.parametrize("questions", [2, 3, 30])
def test_a_multiple_of_the_ideal_gradient_is_known_at_any_noise(questions):
    """Dr. GRPO: all three sums are multiples of one estimate, negative in some questions."""
    norm_Q = np.random.default_rng(questions).normal(1.0, 2.0, size=questions)
    norm_Q[0] += 5.0 + abs(norm_Q.sum())
    k = 7 / 8
    sums_QY = pooling_columns(k * norm_Q, norm_Q, k**2 * norm_Q)
    for part in (False, True):
        found = pooled_finding(sums_QY, part=part)
        assert found.span == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)


def test_a_part_allows_for_a_question_that_was_not_drawn():
    """By hand: one more row, straight away, 0.7 of the size-biased mean of the questions."""
    added = []
    for questions in (30, 300):
        sums_QY = made(2, questions)
        whole, part = pooled_finding(sums_QY), pooled_finding(sums_QY, part=True)
        row_Y = 0.7 * (sums_QY**2).mean(axis=0) / np.abs(sums_QY).mean(axis=0)
        row_Y[0] = -np.sqrt(row_Y[1] * row_Y[2])
        assert part.low == pytest.approx(pooled_set(np.vstack([sums_QY, row_Y]), skewed=False).low)
        assert part.value == whole.value
        assert part.low < whole.low < whole.high < part.high
        added.append(whole.low - part.low)
    assert added[1] < 0.3 * added[0]  # it matters less and less


def test_a_part_of_few_questions_has_an_interval_and_no_value():
    few, enough = made(2, 29), made(2, 30)
    assert pooled_finding(few).known
    part = pooled_finding(few, part=True)
    assert math.isnan(part.value)
    assert -1.0 <= part.low < part.high <= 1.0
    assert pooled_finding(enough, part=True).known


def test_nothing_to_find_has_no_interval_either():
    flat = pooling_columns(np.zeros(9), np.zeros(9), np.ones(9))
    silent = pooling_columns(np.zeros(9), np.ones(9), np.zeros(9))
    for sums_QY, why in ((flat, ALL_FLAT), (silent, NO_DIRECTION)):
        found = pooled_finding(sums_QY)
        assert np.isnan(found.span).all()
        assert why_unsaid(sums_QY, found) == why
    assert np.isnan(pooled_finding(np.zeros((0, 5))).span).all()


def test_noise_above_the_ideal_gradient_leaves_everything_open():
    sums_QY = pooling_columns(np.ones(8), -np.ones(8), np.ones(8))
    found = pooled_finding(sums_QY)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_order_of_questions_does_not_move_an_interval():
    sums_QY = made(3, 30)
    shuffled = np.random.default_rng(0).permutation(sums_QY)
    assert pooled_finding(shuffled).span == pytest.approx(pooled_finding(sums_QY).span, abs=1e-12)


def test_a_mean_of_cosines_is_judged_alike():
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 9, size=25)
    sums = np.array([rng.uniform(-0.2, 0.8, size=n).sum() for n in counts])
    found = mean_finding(np.column_stack([sums, counts]))
    assert found.value == pytest.approx(sums.sum() / counts.sum())
    assert -1 <= found.low < found.value < found.high <= 1
    assert math.isnan(mean_finding(np.array([[0.5, 1.0]])).value)
    assert math.isnan(mean_finding(np.zeros((5, 2))).value)
    cancelling = np.array([[0.3, 1.0], [-0.3 + 1e-17, 1.0], [0.1, 1.0], [-0.1, 1.0]])
    assert mean_finding(cancelling).value == 0.0
