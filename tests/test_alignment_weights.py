"""What a step does, from inner products of questions' updates, against the updates themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import stdtrit

from gradalign.alignment.fieller import skewed_reaches
from gradalign.alignment.weights import UpdateGrams, update_estimate

UNITS = 36


def grams_of(ideal_QD, method_QD, own_Q=None):
    method_QQ = method_QD @ method_QD.T
    return UpdateGrams(
        ideal_QD @ method_QD.T,
        ideal_QD @ ideal_QD.T,
        method_QQ,
        np.diag(method_QQ) if own_Q is None else own_Q,
    )


def drawn(seed, questions=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(questions, UNITS)), rng.normal(size=(questions, UNITS))


def population(noise, seed, questions=400):
    """Questions whose updates have known means at a cosine of 1/2, plus noise that both share."""
    rng = np.random.default_rng(seed)
    ideal, method = np.zeros((2, UNITS))
    ideal[:2], method[:2] = (1.0, 0.0), (0.5, np.sqrt(0.75))
    shared_QD = noise * rng.normal(size=(questions, UNITS)) / np.sqrt(UNITS)
    own_QD = 0.3 * rng.normal(size=(questions, UNITS)) / np.sqrt(UNITS)
    return ideal + shared_QD, method + shared_QD + own_QD


def test_the_estimate_pairs_different_questions_alone():
    first, second = drawn(0)
    different = [(q, r) for q in range(5) for r in range(5) if q != r]
    cross = np.mean([first[q] @ second[r] for q, r in different])
    ideal = np.mean([first[q] @ first[r] for q, r in different])
    common = np.mean([second[q] @ second[r] for q, r in different])
    alone = np.mean([second[q] @ second[q] for q in range(5)])
    for step in (1, 4, 32):
        found = update_estimate(grams_of(first, second), step=step)
        length2 = common + (alone - common) / step
        if length2 > 0:
            assert found.gain.value == pytest.approx(cross / np.sqrt(length2))
        assert found.cosine.value == pytest.approx(
            cross / np.sqrt(ideal * length2) if ideal > 0 and length2 > 0 else np.nan, nan_ok=True
        )


def test_influences_are_those_of_leaving_a_question_out():
    """The jackknife: (Q - 1) times the change, to first order, sums to 0."""
    ideal, method = population(0.5, 0, questions=60)
    found = update_estimate(grams_of(ideal, method))
    assert found.influence_Q.sum() == pytest.approx(0.0, abs=1e-12)
    without = []
    for q in range(60):
        kept = np.delete(np.arange(60), q)
        without.append(update_estimate(grams_of(ideal[kept], method[kept])).gain.value)
    jackknife = np.sqrt(59) * np.std(without)
    spread = np.sqrt(60 / 59 * (found.influence_Q**2).sum())
    assert spread == pytest.approx(jackknife, rel=0.05)


def test_noise_that_both_share_does_not_bias_it():
    found = [update_estimate(grams_of(*population(2.0, seed)), step=32) for seed in range(6)]
    length2 = 1.0 + (4.0 + 0.09) / 32  # the noise that a step on 32 questions really has
    assert np.mean([f.cosine.value for f in found]) == pytest.approx(
        0.5 / np.sqrt(length2), abs=0.06
    )
    cross = grams_of(*population(2.0, 0)).cross_QQ
    within, between = np.diag(cross).mean(), cross[~np.eye(400, dtype=bool)].mean()
    assert within > 2.0 * between


def test_noise_of_halves_does_not_move_the_length():
    """M is its mean plus noise that is independent in each half of the rollouts."""

    def measured(noise, seed):
        rng = np.random.default_rng([seed, 1])
        ideal, method = population(1.0, seed, questions=200)
        half = method + noise * rng.normal(size=(2, *method.shape)) / np.sqrt(UNITS)
        own_Q = (half[0] * half[1]).sum(axis=1)
        return update_estimate(grams_of(ideal, half.mean(axis=0), own_Q), step=1).gain.value

    clean, noisy = (np.mean([measured(noise, s) for s in range(8)]) for noise in (0.0, 2.0))
    assert noisy == pytest.approx(clean, rel=0.1)


def test_an_interval_is_as_wide_as_the_estimate_is_uncertain():
    """Of the ideal update itself, where errors of both lengths are those of the product."""
    found = []
    for seed in range(60):
        ideal, _ = population(2.0, seed, questions=60)
        found.append(update_estimate(grams_of(ideal, ideal)).cosine)
    spread = np.std([ratio.value for ratio in found])
    half = np.mean([(ratio.high - ratio.low) / 2 for ratio in found if ratio.bounded])
    assert sum(ratio.bounded for ratio in found) >= 55
    assert half <= 1.5 * 1.96 * spread


@pytest.mark.parametrize("questions", [24, 120])
def test_intervals_hold_the_truth(questions):
    truth = {"gain": 0.5 / np.sqrt(1.0 + 1.09 / 32)}
    truth["cosine"] = truth["gain"]
    held, widths = dict.fromkeys(truth, 0), []
    for seed in range(200):
        found = update_estimate(grams_of(*population(1.0, seed, questions)), step=32)
        for name, value in truth.items():
            ratio = getattr(found, name)
            held[name] += ratio.low <= value <= ratio.high
        widths.append(found.gain.high - found.gain.low)
    assert all(0.91 <= count / 200 <= 0.995 for count in held.values())
    assert np.mean(widths) < 0.8 * np.sqrt(24 / questions)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_end_near_0_is_that_of_the_squares(sign):
    """Both sets scanned: values of r whose residual lies within its standard errors of 0."""
    count = 26
    ideal_QD, method_QD = population(0.8, 2, questions=count)
    found = update_estimate(grams_of(ideal_QD, sign * method_QD), step=1).cosine
    different = np.ones((count,) * 4, dtype=bool)
    for one, other in itertools.combinations(np.indices(different.shape, sparse=True), 2):
        different &= one != other

    def mean_of(gram_QQ):
        return gram_QQ[~np.eye(count, dtype=bool)].mean()

    def covariance(one_QQ, other_QQ):
        """E[X Y] less E[X] E[Y], of which the latter is that of four different questions."""
        products = one_QQ[:, :, None, None] * other_QQ[None, None]
        return mean_of(one_QQ) * mean_of(other_QQ) - products[different].mean()

    cross_QQ = sign * ideal_QD @ method_QD.T
    own_Q = (method_QD**2).sum(axis=1)
    kernels = (
        (cross_QQ + cross_QQ.T) / 2,
        ideal_QD @ ideal_QD.T,
        (own_Q[:, None] + own_Q[None, :]) / 2,
    )
    c, a, b = map(mean_of, kernels)
    errors = np.array([[covariance(one, other) for other in kernels] for one in kernels])

    def scanned(power, reaches):
        """Values of r whose residual sign(C) |C|^p - r |r|^(p-1) sqrt(A B)^p is near 0."""
        top, bottom = np.sign(c) * abs(c) ** power, np.sqrt(a * b) ** power
        by_top = np.array([power * abs(c) ** (power - 1), 0, 0])
        by_bottom = power / 2 * bottom * np.array([0, 1 / a, 1 / b])
        kept = []
        for r in np.linspace(-3, 3, 60001):
            slope = np.sign(r) * abs(r) ** power
            left, by = top - slope * bottom, by_top - slope * by_bottom
            if -reaches[0] <= left / np.sqrt(by @ errors @ by) <= reaches[1]:
                kept.append(r)
        return kept

    reach_t = float(stdtrit(count - 1, 0.975))
    plain = scanned(1, (reach_t, reach_t))
    own = [gram.sum(axis=1) - np.diag(gram) for gram in kernels]
    own_c, own_a, own_b = ((x - x.mean()) / (count - 1) for x in own)
    below, above = skewed_reaches(
        2 * abs(c) * own_c - c * abs(c) / (a * b) * (own_a * b + own_b * a)
    )
    squares = scanned(2, (max(below, reach_t), max(above, reach_t)))
    ends = [min(plain), max(plain)]
    near = 0 if sign > 0 else 1
    assert ends[near] * sign > 0
    ends[near] = sign * max(0.0, sign * min(squares) if sign > 0 else -max(squares))
    assert [found.low, found.high] == pytest.approx(ends, abs=2e-4)
    assert abs(ends[near]) < abs([min(plain), max(plain)][near]) - 0.01


def test_a_skewed_gain_reaches_farther_on_one_side_and_no_less_on_the_other():
    rng = np.random.default_rng(0)
    ideal = np.tile(population(0.0, 0, 1)[0], (60, 1))
    method = ideal * (1.0 + rng.exponential(4.0, size=(60, 1)))
    found = update_estimate(grams_of(ideal, method), step=1)
    error = np.sqrt(60 / 59 * (found.influence_Q**2).sum())
    below, above = skewed_reaches(found.influence_Q)
    reach = float(stdtrit(59, 0.975))
    assert min(below, above) < reach < max(below, above)
    assert found.gain.low == pytest.approx(found.gain.value - max(above, reach) * error)
    assert found.gain.high == pytest.approx(found.gain.value + max(below, reach) * error)


def test_the_number_does_not_grow_with_the_number_of_questions():
    def mean(questions, seeds):
        return np.mean(
            [update_estimate(grams_of(*population(1.0, s, questions))).cosine.value for s in seeds]
        )

    assert mean(24, range(100, 180)) == pytest.approx(mean(200, range(10)), abs=0.03)


def test_a_direction_agrees_with_itself_and_random_ones_cancel():
    rng = np.random.default_rng(3)
    steady = np.tile(population(0.0, 0, 1)[0], (60, 1))

    def found(method):
        return update_estimate(grams_of(steady, method)).cosine

    assert found(steady).value == pytest.approx(1.0)
    assert found(-steady).value == pytest.approx(-1.0)
    ratio = found(rng.normal(size=(60, UNITS)))
    assert ratio.low < 0.0 < ratio.high
    assert abs(ratio.value) < 0.9


@pytest.mark.parametrize("questions", [1, 2, 4])
def test_what_cannot_be_estimated_is_not_a_number(questions):
    nothing = np.zeros((questions, questions))
    found = update_estimate(UpdateGrams(nothing, nothing, nothing, np.zeros(questions)))
    assert np.isnan([found.cosine.value, found.gain.value]).all()
    assert not found.gain.bounded


def test_influences_are_a_question_as_a_judge_and_as_a_part_of_the_step():
    ideal_QD, method_QD = population(noise=0.5, seed=3, questions=30)
    found = update_estimate(grams_of(ideal_QD, method_QD), step=4)
    grams = grams_of(ideal_QD, method_QD)
    count, cross = 30, grams.cross_QQ - np.diag(np.diag(grams.cross_QQ))
    root = cross.sum() / (count * (count - 1)) / found.gain.value
    judged_Q = (cross.sum(axis=1) / (count - 1) - cross.sum() / (count * (count - 1))) / root
    expected_Q = found.influence_Q - (count - 1) / (count * (count - 2)) * judged_Q
    np.testing.assert_allclose(found.training_Q, expected_Q, rtol=1e-9, atol=1e-12)
    assert found.training_Q.sum() == pytest.approx(0.0, abs=1e-9)
    # Where all updates are one, no question moves the step but by not being judged itself.
    same = update_estimate(grams_of(ideal_QD, np.tile(method_QD[:1], (30, 1))), step=4)
    assert np.abs(same.training_Q).max() < 0.05 * np.abs(same.influence_Q).max()
