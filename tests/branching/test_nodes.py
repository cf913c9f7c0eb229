"""Node samplers: fixed size and exact inclusion probabilities, by simulation."""

import numpy as np
import pytest

from gradalign.branching import choose_nodes
from gradalign.branching.nodes import inclusion_probabilities, systematic_sample
from gradalign.errors import UnknownNameError

ENTROPY = np.array([0.0, 2.0, 0.1, 0.05, 0.9, 0.0, 0.3, 1.1, 0.01, 0.02, 0.6, 0.0])


@pytest.mark.parametrize("sampler", ["uniform", "entropy", "stratified"])
def test_positions_come_up_as_often_as_their_inclusion_probability_says(sampler):
    rng = np.random.default_rng(0)
    draws, size = 30_000, 5
    counts, probs = np.zeros(len(ENTROPY)), np.full(len(ENTROPY), np.nan)
    for _ in range(draws):
        chosen, prob = choose_nodes(ENTROPY, size, sampler, rng)
        assert len(chosen) == size
        assert (np.diff(chosen) > 0).all()
        counts[chosen] += 1
        probs[chosen] = prob
    assert probs.sum() == pytest.approx(size)
    error = np.sqrt(probs * (1 - probs) / draws)
    assert (abs(counts / draws - probs) <= 4.5 * error + 1e-12).all()


def test_weights_make_any_sum_unbiased():
    rng = np.random.default_rng(1)
    y = rng.normal(size=len(ENTROPY)) + 1
    totals = []
    for _ in range(20_000):
        chosen, prob = choose_nodes(ENTROPY, 4, "entropy", rng)
        totals.append((y[chosen] / prob).sum())
    assert abs(np.mean(totals) - y.sum()) < 4 * np.std(totals) / np.sqrt(len(totals))


def test_large_positions_are_certain_and_small_ones_possible():
    probs = inclusion_probabilities([100.0, 1.0, 1.0, 2.0, 50.0], 3)
    np.testing.assert_allclose(probs, [1, 0.25, 0.25, 0.5, 1])
    _, prob = choose_nodes(ENTROPY, 11, "entropy", np.random.default_rng(2))
    assert prob.min() > 0
    assert prob.max() == 1


def test_stratified_takes_one_position_of_each_stretch():
    rng = np.random.default_rng(3)
    for _ in range(200):
        chosen, _ = choose_nodes(np.ones(20), 5, "stratified", rng)
        assert (chosen // 4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampler", ["all", "uniform", "entropy", "stratified"])
def test_short_spines_are_taken_whole(sampler):
    chosen, prob = choose_nodes([0.0, 0.0, 0.5], 8, sampler, np.random.default_rng(4))
    assert chosen.tolist() == [0, 1, 2]
    assert prob.tolist() == [1, 1, 1]


def test_no_entropy_anywhere_is_uniform():
    _, prob = choose_nodes(np.zeros(10), 3, "entropy", np.random.default_rng(5))
    np.testing.assert_allclose(prob, 0.3)


def test_systematic_sampling_keeps_its_size_despite_round_off():
    rng = np.random.default_rng(6)
    for _ in range(2000):
        probs = inclusion_probabilities(rng.gamma(0.3, size=40) + 1e-9, 7)
        assert len(systematic_sample(probs, rng)) == 7


def test_arguments_that_make_no_sense_are_refused():
    rng = np.random.default_rng(7)
    with pytest.raises(UnknownNameError, match="entropie"):
        choose_nodes([1.0], 1, "entropie", rng)
    with pytest.raises(ValueError, match="num_nodes"):
        choose_nodes([1.0], 0, "uniform", rng)
    with pytest.raises(ValueError, match="non-negative"):
        choose_nodes([-1.0], 1, "uniform", rng)
