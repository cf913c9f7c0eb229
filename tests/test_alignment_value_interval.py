"""Wilson's interval of a value, against scipy and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from gradalign.alignment.value_interval import branch_interval, value_interval


@pytest.mark.parametrize(("right", "count"), [(0, 2), (2, 2), (1, 2), (3, 8), (17, 40), (11, 11)])
def test_against_scipy(right, count):
    found = value_interval(right / count, 0.0, count)
    wanted = binomtest(right, count).proportion_ci(method="wilson")
    assert found == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    # The variance of a mean of independent rollouts says the same as their number.
    value = right / count
    same = value_interval(value, value * (1 - value) / count, 1)
    if 0 < right < count:
        assert same == pytest.approx(found, abs=1e-12)


def test_few_successes_are_not_certain():
    low, high = value_interval(1.0, 0.0, 2)
    assert low == pytest.approx(0.342, abs=1e-3)
    assert high == 1.0


def test_a_small_variance_makes_it_narrow():
    wide, narrow = value_interval(0.6, 0.06, 4), value_interval(0.6, 0.001, 4)
    assert narrow[1] - narrow[0] < 0.2 * (wide[1] - wide[0]) < 0.2


def test_what_was_not_measured_has_none():
    assert all(math.isnan(end) for end in value_interval(math.nan, math.nan, 0))
    assert all(math.isnan(end) for end in value_interval(0.5, 0.1, 0))


@pytest.mark.parametrize(("chance", "count"), [(0.9, 8), (0.5, 10), (0.02, 20)])
def test_it_covers_where_a_normal_interval_does_not(chance, count):
    mean = np.random.default_rng(0).binomial(count, chance, 2000) / count
    var = mean * (1 - mean) / (count - 1)
    ends = [value_interval(m, v, count) for m, v in zip(mean, var, strict=True)]
    assert np.mean([low <= chance <= high for low, high in ends]) > 0.93
    if chance != 0.5:
        assert np.mean(np.abs(mean - chance) <= 1.96 * np.sqrt(var)) < 0.6


def test_a_candidate_that_ends_the_response_is_known():
    row = {"token_id": 7, "position": 3, "value": 1.0, "value_var": 0.0, "num_continuations": 1}
    assert branch_interval(row, {"stop_token_ids": [7], "max_tokens": 9}) == (1.0, 1.0)
    assert branch_interval(row, {"stop_token_ids": [8], "max_tokens": 4}) == (1.0, 1.0)
    assert branch_interval(row, {"stop_token_ids": [8], "max_tokens": 9})[0] < 0.3
    assert branch_interval(row, {})[0] < 0.3
