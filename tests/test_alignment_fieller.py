"""Fieller's set against its definition, scanned, and what it should cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import skew
from scipy.stats import t as t_dist

from gradalign.alignment.fieller import (
    pooled_influence,
    pooled_set,
    ratio_set,
    with_opposite,
)
from gradalign.alignment.scores import pooled_of_sums, pooling_columns


def made(seed: int, questions: int = 20, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ideal_QC = rng.normal(size=(questions, 30)) * rng.lognormal(0, 0.2, size=(questions, 1))
    method_QC = ideal_QC + rng.normal(size=ideal_QC.shape)
    length_Q = (ideal_QC**2).sum(axis=1) + noise * rng.normal(size=questions)
    return pooling_columns((ideal_QC * method_QC).sum(axis=1), length_Q, (method_QC**2).sum(axis=1))


def surely(sums_QK: np.ndarray, ratio: float, skewed: bool) -> float:
    """How far the t of D - r S is beyond its quantile, from the definitions."""
    dot, ideal, method = sums_QK[:, 0], sums_QK[:, 1], sums_QK[:, 2]
    length = math.sqrt(ideal.sum() * method.sum())
    length_Q = (ideal * method.sum() + method * ideal.sum()) / (2 * length)
    parts = dot - ratio * length_Q
    count = len(parts)
    t = parts.sum() / math.sqrt(count * parts.var(ddof=1))
    if skewed:
        g = skew(dot - dot.sum() / length_Q.sum() * length_Q)
        t += g * (t**2 / 3 + 1 / 6) / math.sqrt(count) + g**2 * t**3 / (27 * count)
    return abs(t) - t_dist.ppf(0.975, count - 1)


@pytest.mark.parametrize("skewed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_the_ends_are_where_the_test_of_a_ratio_begins_to_fail(seed, skewed):
    sums_QK = made(seed)
    found = pooled_set(sums_QK, skewed=skewed)
    assert found.value == pytest.approx(float(pooled_of_sums(sums_QK.sum(axis=0))), abs=1e-15)
    assert found.low < found.value < found.high
    assert found.bounded
    for end, step in ((found.low, -1e-6), (found.high, 1e-6)):
        assert surely(sums_QK, end + step, skewed) > 0
        assert surely(sums_QK, end - step, skewed) < 0


def test_skewness_is_taken_out_of_both_sides():
    """Means of exponential numbers: symmetric intervals miss above far more often than below."""
    for questions, covered in ((12, 0.925), (24, 0.935)):
        missed = {True: np.zeros(2), False: np.zeros(2)}
        for seed in range(2000):
            value_Q = np.random.default_rng(seed).exponential(size=questions)
            for skewed, sides in missed.items():
                found = ratio_set(value_Q, np.ones(questions), skewed=skewed)
                sides += [found.low > 1.0, found.high < 1.0]
        assert 1 - missed[True].sum() / 2000 >= covered
        assert missed[True].sum() < missed[False].sum()
        assert missed[True][1] < 0.7 * missed[False][1]
        assert missed[False][1] > 5 * missed[False][0]


def test_a_length_that_could_be_nothing_leaves_the_set_unbounded():
    sums_QK = made(0, questions=6, noise=200.0)
    while not sums_QK[:, 1].sum() > 0:
        sums_QK[:, 1] *= -1
    found = pooled_set(sums_QK)
    assert not found.bounded
    assert not found.known
    assert math.isnan(pooled_set(-sums_QK).value)


def test_order_and_scale_do_not_matter():
    sums_QK = made(1)
    first, other = pooled_set(sums_QK), pooled_set(sums_QK[::-1] * 1e9)
    assert other.low == pytest.approx(first.low, abs=1e-9)
    assert other.high == pytest.approx(first.high, abs=1e-9)


@pytest.mark.parametrize("count", [0, 1])
def test_one_question_has_no_interval(count):
    found = pooled_set(made(2)[:count])
    assert not found.bounded
    assert math.isnan(found.value) == (count == 0)


def test_a_direction_that_is_the_ideal_one_has_one_value():
    norm_Q = np.arange(1.0, 9.0)
    found = pooled_set(pooling_columns(norm_Q, norm_Q, norm_Q))
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-7)


def test_a_mean_is_a_ratio_too():
    rng = np.random.default_rng(3)
    value_Q, weight_Q = rng.normal(size=15), np.ones(15)
    found = ratio_set(value_Q, weight_Q, skewed=False)
    half = t_dist.ppf(0.975, 14) * value_Q.std(ddof=1) / math.sqrt(15)
    assert found.low == pytest.approx(value_Q.mean() - half)
    assert found.high == pytest.approx(value_Q.mean() + half)


def test_influence_is_the_derivative_by_a_question_s_weight():
    sums_QK = made(4)
    psi_Q, step = pooled_influence(sums_QK), 1e-6
    assert psi_Q.sum() == pytest.approx(0.0, abs=1e-12)
    for q in range(3):
        weight_Q = np.ones(len(sums_QK))
        weight_Q[q] += step
        moved = float(pooled_of_sums(weight_Q @ sums_QK))
        still = float(pooled_of_sums(sums_QK.sum(axis=0)))
        assert psi_Q[q] == pytest.approx((moved - still) / step, abs=1e-5)


def test_one_opposite_question_widens_both_ends():
    sums_QK = made(5, questions=12)
    plain, wide = pooled_set(sums_QK, skewed=False), with_opposite(sums_QK)
    assert wide.value == plain.value
    assert wide.low < plain.low
    assert wide.high > plain.high


@pytest.mark.parametrize(("noise", "questions"), [(0.0, 12), (0.0, 50), (20.0, 12), (20.0, 50)])
def test_it_covers_the_truth(noise, questions):
    """500 replicas; the truth is that of 200,000 questions."""
    truth = float(pooled_of_sums(made(10**6, 200_000).sum(axis=0)))
    inside = 0
    for seed in range(500):
        found = pooled_set(made(seed, questions, noise))
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / 500 <= 0.985
