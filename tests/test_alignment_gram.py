"""Mixtures of two directions in closed form, against grids and against directions added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradalign.alignment import pooled, pooled_of_sums
from gradalign.alignment.gram import (
    PAIR,
    best_coefficient,
    chosen_sums,
    crossed_alignment,
    mixture_alignment,
    mixture_sums,
    share_of_second,
)


def world(seed, nodes=40, width=12, noise=1.0):
    """Random directions g, m_1, m_2 at weighted nodes, and their sums."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(nodes, width))
    one = 0.5 * g + noise * rng.normal(size=g.shape)
    two = rng.uniform(-1, 1) * g + 3 * noise * rng.normal(size=g.shape)
    weight = rng.uniform(0.5, 4.0, size=nodes)

    def total(a, b):
        return float((weight * (a * b).sum(axis=1)).sum())

    sums = [total(g, one), total(g, two), total(one, one), total(one, two), total(two, two)]
    sums += [total(g, g), total(g, g), total(one, one), total(two, two)]
    return g, one, two, weight, np.array(sums)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("c", [0.0, 0.01, 0.7, 30.0, 1e6])
def test_alignment_of_a_mixture_is_that_of_the_sum(seed, c):
    g, one, two, weight, sums = world(seed)
    mixed = one + c * two
    wanted = pooled(
        (g * mixed).sum(axis=1), (g * g).sum(axis=1), (mixed * mixed).sum(axis=1), weight
    )
    assert mixture_alignment(sums, c) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_ends_are_the_arms_alone(seed):
    *_, sums = world(seed)
    first = sums[0] / np.sqrt(sums[5] * sums[2])
    second = sums[1] / np.sqrt(sums[5] * sums[4])
    assert mixture_alignment(sums, 0.0) == pytest.approx(first, abs=1e-12)
    assert mixture_alignment(sums, np.inf) == pytest.approx(second, abs=1e-12)
    assert mixture_alignment(sums, 1e6) == pytest.approx(second, abs=1e-5)


@given(seed=st.integers(0, 10_000), noise=st.floats(0.01, 5.0))
@settings(max_examples=200, deadline=None)
def test_the_best_coefficient_is_the_grids(seed, noise):
    *_, sums = world(seed, nodes=6, noise=noise)
    best = best_coefficient(sums)
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 4001), [np.inf]])
    values = mixture_alignment(sums[None, :], grid)
    assert mixture_alignment(sums, best) >= values.max() - 1e-12
    assert mixture_alignment(sums, best) <= values.max() + 1e-5
    share = share_of_second(sums)
    assert 0.0 <= share <= 1.0
    assert share == (1.0 if np.isinf(best) else pytest.approx(best / (1 + best)))


def test_the_ideal_beside_anything_is_best_alone():
    g, _, two, weight, _ = world(3)

    def total(a, b):
        return float((weight * (a * b).sum(axis=1)).sum())

    n = total(g, g)
    sums = np.array([n, total(g, two), n, total(g, two), total(two, two), n, n, n, total(two, two)])
    assert best_coefficient(sums) == pytest.approx(0.0, abs=1e-9)
    assert mixture_alignment(sums, 0.0) == pytest.approx(1.0, abs=1e-12)


def test_nothing_known_is_nan():
    assert np.isnan(best_coefficient(np.zeros(PAIR)))
    assert np.isnan(mixture_alignment(np.zeros(PAIR), 1.0))
    assert np.isnan(crossed_alignment(np.zeros(2 * PAIR)))
    one_only = np.zeros(PAIR)
    one_only[[0, 2, 5, 6, 7]] = 1.0
    assert best_coefficient(one_only) == 0.0


def test_crossed_takes_each_halfs_coefficient_from_the_other():
    *_, first = world(1)
    *_, second = world(2)
    c_first, c_second = best_coefficient(first), best_coefficient(second)
    assert c_first != c_second
    total = np.zeros(5)
    for own, choosing, c in ((first, second, c_second), (second, first, c_first)):
        found = chosen_sums(own, choosing)
        assert pooled_of_sums(found) == pytest.approx(mixture_alignment(own, c), abs=1e-12)
        assert chosen_sums(choosing, choosing)[2] == pytest.approx(1.0)
        total += found
    found = crossed_alignment(np.concatenate([first, second]))
    assert found == pytest.approx(total[0] / np.sqrt(total[1] * total[2]))


def test_it_works_on_resamples():
    stack = np.stack([world(seed)[-1] for seed in range(7)])
    every = np.stack([best_coefficient(row) for row in stack])
    np.testing.assert_allclose(best_coefficient(stack), every)
    np.testing.assert_allclose(
        mixture_sums(stack, 0.3), np.stack([mixture_sums(row, 0.3) for row in stack])
    )


@pytest.mark.slow
def test_choosing_on_the_other_half_does_not_flatter():
    """Two useless arms: the best mixture's own alignment is above 0, the crossed one is not."""
    rng = np.random.default_rng(0)
    own, crossed = [], []
    for _ in range(400):
        halves = []
        for _ in range(2):
            g, one, two = rng.normal(size=(3, 20, 8))
            d1, d2 = (g * one).sum(), (g * two).sum()
            n11, n12, n22 = (one * one).sum(), (one * two).sum(), (two * two).sum()
            a = (g * g).sum()
            halves.append([d1, d2, n11, n12, n22, a, a, n11, n22])
        halves = np.array(halves)
        total = halves.sum(axis=0)
        own.append(mixture_alignment(total, best_coefficient(total)))
        crossed.append(crossed_alignment(halves.reshape(-1)))
    error = np.std(crossed) / 20
    assert np.mean(own) > 0.02
    assert abs(np.mean(crossed)) < 4 * error
