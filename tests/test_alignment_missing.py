"""Resamples without a value, in intervals and p-values."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.alignment import cluster_bootstrap, compare, pooled_of_sums
from gradalign.alignment.bootstrap import quantile_ends, resample
from gradalign.alignment.scores import pooling_columns


def questions(rng, count, signal=0.5, loss=1.1):
    """Per-question sums whose norm of the ideal is often negative by noise."""
    dot_Q = rng.normal(signal, 0.4, count)
    return pooling_columns(dot_Q, rng.normal(1.0, loss, count), rng.uniform(0.8, 1.2, count))


def share_without(sums_QK, seed=0):
    totals = resample(sums_QK, 2000, np.random.default_rng(seed))
    return float(np.isnan(pooled_of_sums(totals)).mean())


def test_a_few_resamples_without_a_value_leave_the_ends_that_are_known():
    seen = 0
    for seed in range(60):
        sums = questions(np.random.default_rng(seed), 12)
        share = share_without(sums)
        if not 0.03 < share < 0.15 or not np.isfinite(pooled_of_sums(sums.sum(axis=0))):
            continue
        without = sums.sum(axis=0) - sums
        if np.isnan(pooled_of_sums(without)).any() or (sums[:, 0] < 0).mean() > 0.1:
            continue
        found = cluster_bootstrap(sums, pooled_of_sums, seed=0, num_resamples=2000)
        # All of them lie far above: nothing is known of the high end, and the low one stands.
        assert np.isfinite(found.low), (seed, share)
        assert np.isnan(found.high)
        assert found.low < found.value
        seen += 1
    assert seen >= 3


def test_what_could_be_anything_counts_against_both_ends():
    values_B = np.arange(1000.0)
    plain = quantile_ends(values_B, 0.02, 0.98)
    values_B[500:510] = np.nan  # 1 %, from the middle: fewer than the tails
    low, high = quantile_ends(values_B, 0.02, 0.98)
    assert plain[0] - 12 <= low < plain[0]
    assert plain[1] < high <= plain[1] + 12
    values_B[500:530] = np.nan  # 3 %: more than the tails
    assert np.isnan(quantile_ends(values_B, 0.02, 0.98)).all()
    values_B[500:530] = np.inf
    low, high = quantile_ends(values_B, 0.02, 0.98)
    assert low == pytest.approx(plain[0], abs=1)
    assert np.isnan(high)


def test_ends_are_not_narrower_than_without_the_missing_ones():
    """A statistic that says nothing in 1 % of resamples, against the same one that says all."""
    rng = np.random.default_rng(5)
    sums = np.column_stack([rng.normal(size=200), np.ones(200)])

    def mean(totals):
        return totals[..., 0] / totals[..., 1]

    def sometimes(totals):
        value = mean(totals)
        return np.where((value * 1e6).astype(np.int64) % 100 == 0, np.nan, value)

    whole = cluster_bootstrap(sums, mean, seed=1, num_resamples=4000)
    holed = cluster_bootstrap(sums, sometimes, seed=1, num_resamples=4000)
    assert holed.low < whole.low < whole.high < holed.high
    assert holed.high - holed.low < 1.5 * (whole.high - whole.low)
    other = np.tile([0.0123457, 1.0], (200, 1))
    both = compare(sums, other, sometimes, seed=1, num_resamples=4000)
    full = compare(sums, other, mean, seed=1, num_resamples=4000)
    assert both.p_value >= full.p_value


def test_one_question_that_carries_everything_gives_no_interval():
    sums = pooling_columns([0.4, 0.01, 0.02, 0.0], [1.0, -0.1, 0.05, -0.2], np.ones(4))
    found = cluster_bootstrap(sums, pooled_of_sums, seed=0, num_resamples=500)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high, found.se]).all()


def test_low_ends_hold_where_many_resamples_have_no_value():
    """Coverage of the low end by simulation, at a noise that leaves a few percent without."""
    rng = np.random.default_rng(11)
    count, spread, truth = 24, 0.9, 0.5
    known = missed = 0
    for seed in range(300):
        sums = questions(rng, count, signal=truth, loss=spread * np.sqrt(count) / 2)
        found = cluster_bootstrap(sums, pooled_of_sums, seed=seed, num_resamples=400)
        known += bool(np.isfinite(found.low))
        missed += bool(found.low > truth)
    assert known > 100
    assert missed / 300 < 0.06
