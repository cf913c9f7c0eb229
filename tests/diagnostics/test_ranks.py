"""Rank correlation under resampling, against scipy on the resample written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from gradalign.alignment import cluster_bootstrap
from gradalign.diagnostics.predictors import rank_correlation


@pytest.mark.parametrize("levels", [3, 10, None])
def test_against_scipy_on_every_resample(levels):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 60))
    y += x
    if levels:  # many equal values
        x, y = np.round(x * levels / 4), np.round(y * levels / 4)
    question = rng.integers(0, 7, 60)
    times = rng.multinomial(7, np.ones(7) / 7, size=50)
    found = rank_correlation(x, y, question, 7)(times)
    for b in range(50):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(question == q), times[b, q]) for q in range(7)]
        )
        assert found[b] == pytest.approx(spearmanr(x[rows], y[rows]).statistic, abs=1e-9)


def test_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 30))
    times = rng.multinomial(5, np.ones(5) / 5, size=40)
    question = rng.integers(0, 5, 30)
    whole = rank_correlation(x, y, question, 5)(times)
    monkeypatch.setattr("gradalign.diagnostics.predictors._BLOCK", 64)
    np.testing.assert_array_equal(rank_correlation(x, y, question, 5)(times), whole)


def test_a_constant_has_no_rank_correlation():
    statistic = rank_correlation(np.ones(6), np.arange(6), np.arange(6) // 2, 3)
    assert np.isnan(statistic(np.ones(3)))


def test_monotone_relations_are_perfect():
    x = np.array([3.0, 1.0, 2.0, 10.0])
    for sign in (1, -1):
        statistic = rank_correlation(x, sign * np.exp(x), np.arange(4), 4)
        assert statistic(np.ones(4)) == pytest.approx(sign)


def test_intervals_over_questions_find_a_relation_and_no_other():
    rng = np.random.default_rng(2)
    question = np.repeat(np.arange(12), 20)
    x = rng.normal(size=240)
    y = 0.8 * x + rng.normal(size=240)
    near = cluster_bootstrap(
        np.eye(12), rank_correlation(x, y, question, 12), seed=0, num_resamples=500
    )
    assert near.low > 0.3
    none = rng.normal(size=240)
    far = cluster_bootstrap(
        np.eye(12), rank_correlation(none, y, question, 12), seed=0, num_resamples=500
    )
    assert far.low < 0 < far.high


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="three arrays"):
        rank_correlation(np.zeros(3), np.zeros(4), np.zeros(3), 1)
