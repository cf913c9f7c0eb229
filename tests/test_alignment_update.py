"""Update-level alignment against matrices that are written out."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.alignment.update import UpdateGrams, Updates, question_gram, update_alignment

VOCABULARY, UNITS, QUESTIONS = 11, 4, 5


def updates(rng, nodes, hidden, question):
    token = np.stack([rng.choice(VOCABULARY, 3, replace=False) for _ in range(nodes)])
    direction = rng.normal(size=(nodes, 3))
    token[::3, 2], direction[::3, 2] = -1, 0.0  # padding
    return Updates(token, direction, hidden, question)


def matrices(given, questions=QUESTIONS):
    """The summed update of every question, [Q, V, D]."""
    out = np.zeros((questions, VOCABULARY, UNITS))
    rows = zip(given.token_NC, given.direction_NC, given.hidden_ND, given.question_N, strict=True)
    for tokens, direction, hidden, question in rows:
        for token, value in zip(tokens, direction, strict=True):
            if token >= 0:
                out[question, token] += value * hidden
    return out


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    hidden, question = rng.normal(size=(40, UNITS)), rng.integers(0, QUESTIONS, 40)
    return updates(rng, 40, hidden, question), updates(rng, 40, hidden, question)


@pytest.mark.parametrize("block", [1, 200, 1 << 23])
def test_the_gram_matrix_is_that_of_the_written_out_updates(pair, block, monkeypatch):
    monkeypatch.setattr("gradalign.alignment.update._BLOCK", block)
    first, second = pair
    expected = np.einsum("qvd,rvd->qr", matrices(first), matrices(second))
    np.testing.assert_allclose(question_gram(first, second, QUESTIONS), expected, rtol=1e-10)


def grams_of(first, second, questions=QUESTIONS):
    return UpdateGrams(
        question_gram(first, second, questions),
        question_gram(first, first, questions),
        question_gram(second, second, questions),
    )


def test_only_different_questions_are_paired_with_the_ideal(pair):
    first, second = (matrices(part) for part in pair)
    different = [(q, r) for q in range(QUESTIONS) for r in range(QUESTIONS) if q != r]
    cross = np.mean([(first[q] * second[r]).sum() for q, r in different])
    ideal = np.mean([(first[q] * first[r]).sum() for q, r in different])
    step = (second.mean(axis=0) ** 2).sum()
    grams = grams_of(*pair)
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
    return (
        Updates(token, ideal + shared, hidden, question),
        Updates(token, method + shared, hidden, question),
    )


def test_noise_that_both_share_does_not_bias_it():
    values = [grams_of(*population(2.0, seed), 400).estimate()[0] for seed in range(12)]
    # With the same question paired with itself the shared noise would push it towards 1.
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    cross = grams_of(*population(2.0, 0), 400).cross_QQ
    within, between = np.diag(cross).mean(), cross[~np.eye(400, dtype=bool)].mean()
    assert within > 2.0 * between


def test_the_interval_holds_the_truth_and_shrinks():
    held, widths = 0, {}
    for questions in (30, 120):
        widths[questions] = []
        for seed in range(20):
            grams = grams_of(*population(1.0, seed, questions), questions)
            interval = update_alignment(grams, seed=seed, num_resamples=400)
            held += interval.low <= 0.5 <= interval.high
            widths[questions].append(interval.high - interval.low)
    assert held >= 33
    assert np.mean(widths[120]) < 0.65 * np.mean(widths[30])


def test_a_direction_agrees_with_itself_and_random_ones_cancel():
    rng = np.random.default_rng(3)
    hidden, question = rng.normal(size=(600, UNITS)) + 1.0, np.repeat(np.arange(60), 10)
    token = np.tile(np.arange(3), (600, 1))
    steady = Updates(token, np.tile([1.0, 0.0, -1.0], (600, 1)), hidden, question)
    assert grams_of(steady, steady, 60).estimate()[0] == pytest.approx(1.0, abs=0.01)
    opposite = Updates(token, -steady.direction_NC, hidden, question)
    noise = Updates(token, rng.normal(size=(600, 3)), hidden, question)
    interval = update_alignment(grams_of(steady, noise, 60), seed=0)
    assert interval.low < 0.0 < interval.high
    assert abs(interval.estimate) < 0.9  # twelve dimensions: its spread is about 0.3
    assert grams_of(steady, opposite, 60).estimate()[0] == pytest.approx(-1.0, abs=0.01)


def test_what_cannot_be_estimated_is_not_a_number():
    nothing = np.zeros((4, 4))
    interval = update_alignment(UpdateGrams(nothing, nothing, nothing), seed=0)
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()


def test_shapes_are_checked(pair):
    first, _ = pair
    with pytest.raises(ValueError, match=r"\[nodes, candidates\], got \(40, 3\) and \(40, 2\)"):
        Updates(first.token_NC, first.direction_NC[:, :2], first.hidden_ND, first.question_N)
    with pytest.raises(ValueError, match=r"hidden_ND must be \[40, units\]"):
        Updates(first.token_NC, first.direction_NC, first.hidden_ND[:3], first.question_N)
    with pytest.raises(ValueError, match=r"question_N must lie in 0\.\.2"):
        question_gram(first, first, 3)
    narrow = Updates(first.token_NC, first.direction_NC, first.hidden_ND[:, :2], first.question_N)
    with pytest.raises(ValueError, match="one width"):
        question_gram(first, narrow, QUESTIONS)
