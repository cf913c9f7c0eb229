"""Update-level alignment against matrices that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.alignment.update import (
    IDEAL,
    GramSums,
    UpdateGrams,
    Updates,
    update_alignment,
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


def test_only_different_questions_are_paired_with_the_ideal(made):
    first, second = matrices(made, IDEAL), matrices(made, METHOD)
    different = [(q, r) for q in range(QUESTIONS) for r in range(QUESTIONS) if q != r]
    cross = np.mean([(first[q] * second[r]).sum() for q, r in different])
    ideal = np.mean([(first[q] * first[r]).sum() for q, r in different])
    step = (second.mean(axis=0) ** 2).sum()
    grams = grams_of(made)
    assert grams.ideal_norm2 == pytest.approx(ideal)
    value = grams.estimate()[0]
    if ideal > 0:
        assert value == pytest.approx(cross / np.sqrt(ideal * step))
    else:
        assert np.isnan(value)
    # A question that is drawn twice counts like two equal ones that are not paired.
    weights = np.array([2.0, 0.0, 1.0, 1.0, 1.0])
    pairs = sum(weights[q] * weights[r] for q, r in different)
    total = sum(weights[q] * weights[r] * (first[q] * second[r]).sum() for q, r in different)
    step = (np.tensordot(weights / weights.sum(), second, axes=1) ** 2).sum()
    if ideal > 0:
        drawn = grams.estimate(weights[None])[0]
        assert drawn == pytest.approx(total / pairs / np.sqrt(ideal * step))


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
    values = [grams_of(population(2.0, seed), questions=400).estimate()[0] for seed in range(12)]
    # With the same question paired with itself the shared noise would push it towards 1.
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    cross = grams_of(population(2.0, 0), questions=400).cross_QQ
    within, between = np.diag(cross).mean(), cross[~np.eye(400, dtype=bool)].mean()
    assert within > 2.0 * between


def test_the_interval_holds_the_truth_and_shrinks():
    held, widths = 0, {}
    for questions in (30, 120):
        widths[questions] = []
        for seed in range(20):
            grams = grams_of(population(1.0, seed, questions), questions=questions)
            interval = update_alignment(grams, seed=seed, num_resamples=400)
            held += interval.low <= 0.5 <= interval.high
            widths[questions].append(interval.high - interval.low)
    assert held >= 33
    assert np.mean(widths[120]) < 0.65 * np.mean(widths[30])


def test_a_direction_agrees_with_itself_and_random_ones_cancel():
    rng = np.random.default_rng(3)
    hidden, question = rng.normal(size=(600, UNITS)) + 1.0, np.repeat(np.arange(60), 10)
    token = np.tile(np.arange(3), (600, 1))
    steady = np.tile([1.0, 0.0, -1.0], (600, 1))

    def found(method):
        given = Updates(token, hidden, question, {IDEAL: steady, METHOD: method})
        return update_alignment(grams_of(given, questions=60), seed=0)

    assert found(steady).value == pytest.approx(1.0, abs=0.01)
    assert found(-steady).value == pytest.approx(-1.0, abs=0.01)
    interval = found(rng.normal(size=(600, 3)))
    assert interval.low < 0.0 < interval.high
    assert abs(interval.value) < 0.9  # twelve dimensions: its spread is about 0.3


def test_what_cannot_be_estimated_is_not_a_number():
    nothing = np.zeros((4, 4))
    interval = update_alignment(UpdateGrams(nothing, nothing, nothing), seed=0)
    assert np.isnan([interval.value, interval.low, interval.high]).all()


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
