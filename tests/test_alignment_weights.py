"""What a step does, from inner products of questions' updates, against the updates themselves."""

from __future__ import annotations

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
    ideal_QD, method_QD = population(1.5, 2, questions=80)
    found = update_estimate(grams_of(ideal_QD, sign * method_QD), step=1).cosine
    count, scale = 80, 2.0 * 79 / (80 * 78)

    def means(gram_QQ):
        off_QQ = gram_QQ * (1.0 - np.eye(count))
        mean = off_QQ.sum() / (count * (count - 1))
        return mean, scale * (off_QQ.sum(axis=1) / (count - 1) - mean)

    cross_QQ = sign * ideal_QD @ method_QD.T
    c, c_Q = means((cross_QQ + cross_QQ.T) / 2)
    a, a_Q = means(ideal_QD @ ideal_QD.T)
    own_Q = (method_QD**2).sum(axis=1)
    b, b_Q = means((own_Q[:, None] + own_Q[None, :]) / 2)

    def held(r, top, top_Q, bottom, bottom_Q, reaches):
        left, left_Q = top - r * bottom, top_Q - r * bottom_Q
        error = np.sqrt(count / (count - 1) * (left_Q**2).sum())
        return -reaches[0] * error <= left <= reaches[1] * error

    reach_t = float(stdtrit(count - 1, 0.975))
    root, product_Q = np.sqrt(a * b), a_Q * b + b_Q * a
    plain = [r for r in np.linspace(-2, 2, 40001)
             if held(r, c, c_Q, root, product_Q / (2 * root), (reach_t, reach_t))]  # fmt: skip
    square, square_Q = c * abs(c), 2 * abs(c) * c_Q
    below, above = skewed_reaches(square_Q - square / (a * b) * product_Q)
    reaches = max(below, reach_t), max(above, reach_t)
    squares = [r for r in np.linspace(-2, 2, 40001)
               if held(r * abs(r), square, square_Q, a * b, product_Q, reaches)]  # fmt: skip
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
