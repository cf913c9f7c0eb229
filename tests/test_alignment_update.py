"""Update-level alignment against matrices that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.alignment.update import (
    IDEAL,
    GramSums,
    UpdateGrams,
    Updates,
    update_estimate,
)
from gradalign.estimates import Arm

VOCABULARY, UNITS, QUESTIONS = 11, 4, 5


METHOD = Arm("teacher", "method")


def updates(rng, nodes):
    token = np.stack([rng.choice(VOCABULARY, 3, replace=False) for _ in range(nodes)])
    directions = {key: rng.normal(size=(nodes, 3)) for key in (IDEAL, METHOD)}
    token[::3, 2] = -1  # padding, whatever the directions say there
    hidden, question = rng.normal(size=(nodes, UNITS)), rng.integers(0, QUESTIONS, nodes)
    return Updates(token, hidden, question, directions)


def matrices(given, key, questions=QUESTIONS):
    """The summed update of every question, [Q, V, D]."""
    out = np.zeros((questions, VOCABULARY, UNITS))
    rows = zip(
        given.token_NC, given.directions[key], given.hidden_ND, given.question_N, strict=True
    )
    for tokens, direction, hidden, question in rows:
        for token, value in zip(tokens, direction, strict=True):
            if token >= 0:
                out[question, token] += value * hidden
    return out


@pytest.fixture
def made():
    return updates(np.random.default_rng(0), 40)


def part(given, inside):
    """Some of the nodes, as a shard has them."""
    directions = {key: value[inside] for key, value in given.directions.items()}
    return Updates(
        given.token_NC[inside], given.hidden_ND[inside], given.question_N[inside], directions
    )


def grams_of(*parts, questions=QUESTIONS):
    sums = GramSums(questions, [METHOD])
    for place, left in enumerate(parts):
        for right in parts[place:]:
            sums.add(left, right)
    return sums.grams(METHOD)


@pytest.mark.parametrize("block", [1, 200, 1 << 23])
def test_the_gram_matrices_are_those_of_the_written_out_updates(made, block, monkeypatch):
    monkeypatch.setattr("gradalign.alignment.update._BLOCK", block)
    ideal, method = matrices(made, IDEAL), matrices(made, METHOD)
    whole = grams_of(made)
    shards = grams_of(*(part(made, made.question_N % 3 == i) for i in range(3)))
    for grams in (whole, shards):
        for found, left, right in (
            (grams.cross_QQ, ideal, method),
            (grams.ideal_QQ, ideal, ideal),
            (grams.method_QQ, method, method),
        ):
            expected = np.einsum("qvd,rvd->qr", left, right)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_estimate_pairs_different_questions_alone(made):
    first, second = matrices(made, IDEAL), matrices(made, METHOD)
    different = [(q, r) for q in range(QUESTIONS) for r in range(QUESTIONS) if q != r]
    cross = np.mean([(first[q] * second[r]).sum() for q, r in different])
    ideal = np.mean([(first[q] * first[r]).sum() for q, r in different])
    common = np.mean([(second[q] * second[r]).sum() for q, r in different])
    alone = np.mean([(second[q] ** 2).sum() for q in range(QUESTIONS)])
    for step in (1, 4, 32):
        found = update_estimate(grams_of(made), step=step)
        length2 = common + (alone - common) / step
        assert found.gain.value == pytest.approx(cross / np.sqrt(length2))
        assert found.cosine.value == pytest.approx(
            cross / np.sqrt(ideal * length2) if ideal > 0 else np.nan, nan_ok=True
        )


def test_influences_are_those_of_leaving_a_question_out(made):
    """The jackknife: (Q - 1) times the change, to first order, sums to 0."""
    given = population(0.5, 0, questions=60)
    grams = grams_of(given, questions=60)
    found = update_estimate(grams)
    assert found.influence_Q.sum() == pytest.approx(0.0, abs=1e-12)
    without = []
    for q in range(60):
        kept = np.delete(np.arange(60), q)
        block = np.ix_(kept, kept)
        fewer = UpdateGrams(
            grams.cross_QQ[block], grams.ideal_QQ[block], grams.method_QQ[block], grams.own_Q[kept]
        )
        without.append(update_estimate(fewer).gain.value)
    jackknife = np.sqrt(59) * np.std(without)
    spread = np.sqrt(60 / 59 * (found.influence_Q**2).sum())
    assert spread == pytest.approx(jackknife, rel=0.05)


def population(noise, seed, questions=400, nodes=3):
    """Questions whose updates have known means, two directions at a known angle, plus noise."""
    rng = np.random.default_rng(seed)
    count = questions * nodes
    hidden = np.ones((count, UNITS)) + 0.3 * rng.normal(size=(count, UNITS))
    question = np.repeat(np.arange(questions), nodes)
    token = np.tile(np.arange(3), (count, 1))
    ideal, method = np.array([1.0, 0.0, -1.0]), np.array([1.0, -1.0, 0.0])  # cosine 1/2
    shared = noise * rng.normal(size=(count, 3))
    directions = {IDEAL: ideal + shared, METHOD: method + shared}
    return Updates(token, hidden, question, directions)


def test_noise_that_both_share_does_not_bias_it():
    found = [update_estimate(grams_of(population(2.0, i), questions=400)) for i in range(6)]
    spread = 3 * 0.09 * 4.0 / 32  # the noise that a step on 32 questions really has
    assert np.mean([f.cosine.value for f in found]) == pytest.approx(0.5, abs=0.06 + spread)
    cross = grams_of(population(2.0, 0), questions=400).cross_QQ
    within, between = np.diag(cross).mean(), cross[~np.eye(400, dtype=bool)].mean()
    assert within > 2.0 * between


def test_halves_take_the_noise_of_rollouts_out_of_the_length():
    def measured(noise, seed):
        rng = np.random.default_rng(seed)
        given = population(0.0, seed, questions=200)
        half = given.directions[METHOD] + noise * rng.normal(size=(2, 600, 3))
        directions = {IDEAL: given.directions[IDEAL], METHOD: half.mean(axis=0)}
        halves = {METHOD: half} if noise else {}
        whole = Updates(given.token_NC, given.hidden_ND, given.question_N, directions, halves)
        return grams_of(whole, questions=200)

    exact = measured(0.0, 0)
    np.testing.assert_array_equal(exact.own_Q, np.diag(exact.method_QQ))
    noisy = [measured(3.0, seed) for seed in range(4)]
    own = np.mean([grams.own_Q.mean() for grams in noisy])
    assert own == pytest.approx(exact.own_Q.mean(), rel=0.25)
    assert np.mean([np.diag(g.method_QQ).mean() for g in noisy]) > 2.0 * own


def test_noise_of_halves_does_not_move_the_cosine():
    """M is G plus noise that is independent in each half: within 0.05 of that without noise."""

    def cosine(noise, seed):
        rng = np.random.default_rng(seed)
        given = population(1.0, seed, questions=200)
        ideal = given.directions[IDEAL]
        half = ideal + noise * rng.normal(size=(2, *ideal.shape))
        whole = Updates(
            given.token_NC, given.hidden_ND, given.question_N,
            {IDEAL: ideal, METHOD: half.mean(axis=0)}, {METHOD: half},
        )  # fmt: skip
        return update_estimate(grams_of(whole, questions=200)).cosine.value

    clean, noisy = (np.mean([cosine(noise, s) for s in range(6)]) for noise in (0.0, 2.0))
    assert noisy == pytest.approx(clean, abs=0.05)


def test_an_interval_is_as_wide_as_the_estimate_is_uncertain():
    """Of the ideal update itself, where errors of both lengths are those of the product."""
    found = []
    for seed in range(60):
        given = population(2.0, seed, questions=60)
        own = {IDEAL: given.directions[IDEAL], METHOD: given.directions[IDEAL]}
        whole = Updates(given.token_NC, given.hidden_ND, given.question_N, own)
        found.append(update_estimate(grams_of(whole, questions=60)).cosine)
    spread = np.std([ratio.value for ratio in found])
    half = np.mean([(ratio.high - ratio.low) / 2 for ratio in found if ratio.bounded])
    assert sum(ratio.bounded for ratio in found) >= 55
    assert half <= 1.5 * 1.96 * spread


@pytest.mark.parametrize("questions", [24, 120])
def test_intervals_hold_the_truth(questions):
    truth = update_estimate(grams_of(population(1.0, 99, 800), questions=800))
    held, widths = np.zeros(2), []
    for seed in range(40):
        found = update_estimate(grams_of(population(1.0, seed, questions), questions=questions))
        for i, part in enumerate(("cosine", "gain")):
            ratio = getattr(found, part)
            held[i] += ratio.low <= getattr(truth, part).value <= ratio.high
        widths.append(found.gain.high - found.gain.low)
    assert (held >= 34).all()
    assert np.mean(widths) < 4.6 * np.sqrt(24 / questions)


def test_the_number_does_not_grow_with_the_number_of_questions():
    def mean(questions, seeds):
        return np.mean(
            [
                update_estimate(
                    grams_of(population(1.0, s, questions), questions=questions)
                ).cosine.value
                for s in seeds
            ]
        )

    assert mean(24, range(100, 140)) == pytest.approx(mean(200, range(6)), abs=0.03)


def test_a_direction_agrees_with_itself_and_random_ones_cancel():
    rng = np.random.default_rng(3)
    hidden, question = rng.normal(size=(600, UNITS)) + 1.0, np.repeat(np.arange(60), 10)
    token = np.tile(np.arange(3), (600, 1))
    steady = np.tile([1.0, 0.0, -1.0], (600, 1))

    def found(method):
        given = Updates(token, hidden, question, {IDEAL: steady, METHOD: method})
        return update_estimate(grams_of(given, questions=60)).cosine

    assert found(steady).value == pytest.approx(1.0, abs=0.03)
    assert found(-steady).value == pytest.approx(-1.0, abs=0.03)
    ratio = found(rng.normal(size=(600, 3)))
    assert ratio.low < 0.0 < ratio.high
    assert abs(ratio.value) < 0.9  # twelve dimensions: its spread is about 0.3


@pytest.mark.parametrize("questions", [1, 2, 4])
def test_what_cannot_be_estimated_is_not_a_number(questions):
    nothing = np.zeros((questions, questions))
    found = update_estimate(UpdateGrams(nothing, nothing, nothing, np.zeros(questions)))
    assert np.isnan([found.cosine.value, found.gain.value]).all()
    assert not found.gain.bounded


def test_shapes_are_checked(made):
    token, hidden, question = made.token_NC, made.hidden_ND, made.question_N
    with pytest.raises(ValueError, match=r"\[nodes, candidates\], got \(40, 3\) .* \(40, 2\)"):
        Updates(token, hidden, question, {IDEAL: made.directions[IDEAL][:, :2]})
    with pytest.raises(ValueError, match=r"hidden_ND must be \[40, units\]"):
        Updates(token, hidden[:3], question, made.directions)
    with pytest.raises(ValueError, match=r"question_N must be \(40,\)"):
        Updates(token, hidden, question[:3], made.directions)
    with pytest.raises(ValueError, match=r"question_N must lie in 0\.\.2"):
        grams_of(made, questions=3)
    narrow = Updates(token, hidden[:, :2], question, made.directions)
    with pytest.raises(ValueError, match="one width"):
        GramSums(QUESTIONS, [METHOD]).add(made, narrow)
