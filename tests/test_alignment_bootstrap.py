"""Intervals: coverage with few questions, paired comparisons, reproducibility and speed."""

import time

import numpy as np
import pytest

from gradalign.alignment import cluster_bootstrap, compare, pooled_of_sums

QUESTIONS = 20


def _population(rng, count, agreement):
    """Per-question sums of a skewed population whose pooled alignment is `agreement`."""
    size = rng.gamma(0.7, 1.0, count)
    steep = size * rng.gamma(2.0, 0.5, count)
    share = agreement + 0.35 * rng.normal(size=count) * np.sqrt(1 - agreement**2)
    ideal = size + rng.normal(0, 0.15, count) * np.sqrt(size)
    return np.stack((share * np.sqrt(size * steep), ideal, steep), axis=1)


def test_intervals_cover_with_twenty_questions():
    rng = np.random.default_rng(9)
    population = _population(rng, 20_000, 0.5)
    truth = float(pooled_of_sums(population.sum(axis=0)))
    covered, below = [], []
    for seed in range(800):
        sample = population[rng.integers(0, len(population), QUESTIONS)]
        interval = cluster_bootstrap(sample, pooled_of_sums, seed=seed, num_resamples=1000)
        covered.append(interval.low <= truth <= interval.high)
        below.append(truth < interval.low)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert 0.005 <= np.mean(below) <= 0.055


def test_comparison_is_paired_and_its_p_value_is_uniform_under_no_difference():
    rng = np.random.default_rng(10)
    p_values, widths, apart = [], [], []
    for seed in range(400):
        base = _population(rng, QUESTIONS, 0.4)
        noise = rng.normal(0, 0.05, (2, QUESTIONS))
        first, second = base.copy(), base.copy()
        scale = np.sqrt(np.maximum(base[:, 1], 0) * base[:, 2])
        first[:, 0] += noise[0] * scale
        second[:, 0] += noise[1] * scale
        result = compare(first, second, pooled_of_sums, seed=seed, num_resamples=1000)
        p_values.append(result.p_value)
        widths.append(result.high - result.low)
        alone = cluster_bootstrap(first, pooled_of_sums, seed=seed, num_resamples=1000)
        apart.append(alone.high - alone.low)
        assert (result.p_value < 0.05) == (not result.low <= 0 <= result.high) or (
            abs(result.p_value - 0.05) < 0.01
        )
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.085
    assert 0.40 <= np.mean(p_values) <= 0.60
    assert np.median(widths) < 0.5 * np.median(apart)


def test_a_real_difference_is_found():
    base = _population(np.random.default_rng(11), 60, 0.3)
    better = base.copy()
    better[:, 0] += 0.3 * np.sqrt(np.maximum(base[:, 1], 0) * base[:, 2])
    result = compare(better, base, pooled_of_sums, seed=0)
    assert result.value == pytest.approx(0.3, abs=0.1)
    assert result.low > 0.1
    assert result.p_value < 1e-3
    swapped = compare(base, better, pooled_of_sums, seed=0)
    assert swapped.value == pytest.approx(-result.value)


def test_same_seed_same_interval_and_other_seed_another():
    sums = _population(np.random.default_rng(12), 30, 0.5)
    first = cluster_bootstrap(sums, pooled_of_sums, seed=1)
    assert first == cluster_bootstrap(sums, pooled_of_sums, seed=1)
    other = cluster_bootstrap(sums, pooled_of_sums, seed=2)
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.01)


def test_too_little_to_say_is_not_a_number():
    one = cluster_bootstrap([[1.0, 2.0, 3.0]], pooled_of_sums, seed=0)
    assert one.value == pytest.approx(1 / np.sqrt(6))
    assert np.isnan(one.low)
    # Every third resample has no positive norm: the ends are not known.
    poor = cluster_bootstrap([[0.1, 1.0, 1.0], [0.0, -0.9, 1.0]], pooled_of_sums, seed=0)
    assert np.isnan([poor.low, poor.high]).all()
    flat = cluster_bootstrap(np.zeros((5, 3)), pooled_of_sums, seed=0)
    assert np.isnan([flat.value, flat.low]).all()


def test_ten_thousand_resamples_of_two_thousand_questions_take_less_than_a_second():
    sums = _population(np.random.default_rng(13), 2000, 0.5)
    started = time.process_time()
    cluster_bootstrap(sums, pooled_of_sums, seed=0, num_resamples=10_000)
    assert time.process_time() - started < 1.0
