"""Bias of an estimator, and figures of the one-token signal, against slow definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradalign.diagnostics.horizon import bias2, imbalance, root_ratio, spec
from gradalign.methods import Continuations, NodeBatch, get


def test_bias_against_a_loop():
    rng = np.random.default_rng(0)
    m, one = rng.normal(size=(2, 2, 15, 6))
    found = bias2(m, one)
    for n in range(15):
        wanted = sum((m[0, n, c] - one[0, n, c]) * (m[1, n, c] - one[1, n, c]) for c in range(6))
        assert found[n] == pytest.approx(wanted, abs=1e-9)


def test_bias_is_unbiased_by_noise():
    """Independent noise in the halves; a plain squared distance would be 24 too high."""
    rng = np.random.default_rng(1)
    gap = np.array([0.5, -0.5, 0.0, 0.0])
    noise = rng.normal(size=(2, 2, 200_000, 4))
    found = bias2(gap + noise[0], noise[1])
    assert found.mean() == pytest.approx(0.5, abs=5 * found.std() / 200_000**0.5)
    assert found.std() / 200_000**0.5 < 0.02


def test_no_bias_at_the_sequence_level_itself():
    one = np.random.default_rng(2).normal(size=(2, 5, 3))
    np.testing.assert_array_equal(bias2(one, one), 0)


def test_halves_are_checked():
    with pytest.raises(ValueError, match="halves"):
        bias2(np.zeros((3, 5, 2)), np.zeros((3, 5, 2)))


def test_root_ratio():
    sums = np.array([[4.0, 16.0], [-1.0, 2.0], [1.0, 0.0], [1.0, -3.0]])
    np.testing.assert_array_equal(root_ratio(sums), [0.5, 0.0, np.nan, np.nan])


def test_imbalance():
    assert imbalance([-0.1, 0.0, 2.0, -3.0]).tolist() == [True, False, False, True]


def test_the_token_level_is_sampled_token_distillation():
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 8, 10))
    batch = NodeBatch.from_logits(student, teacher, sampled=rng.integers(0, 10, 8))
    token, opd = get(spec(0.0)), get("opd")
    np.testing.assert_allclose(token.ascent(batch), opd.ascent(batch), atol=1e-12)
    np.testing.assert_allclose(
        token.ascent(batch, "sampled"), opd.ascent(batch, "sampled"), atol=1e-12
    )
    # Variance of r_y (e_y - P) over y, written out.
    p = np.exp(student) / np.exp(student).sum(1, keepdims=True)
    q = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    for n in range(8):
        draws = [np.log(q[n, y] / p[n, y]) * (np.eye(10)[y] - p[n]) for y in range(10)]
        mean = sum(p[n, y] * draws[y] for y in range(10))
        wanted = sum(p[n, y] * ((draws[y] - mean) ** 2).sum() for y in range(10))
        assert token.squared_deviation(batch)[n] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_direction_and_variance_against_every_draw(gamma):
    """What a token and one of its continuations push, over all tokens and continuations."""
    rng = np.random.default_rng(4)
    nodes, vocab, per_token = 6, 5, 3
    batch = NodeBatch.from_logits(*rng.normal(size=(2, nodes, vocab)))
    count = nodes * vocab * per_token
    stop = np.cumsum(rng.integers(0, 5, count))
    start = np.r_[0, stop[:-1]]
    ratio = rng.normal(size=int(stop[-1]))
    rolled = Continuations(
        node_K=np.repeat(np.arange(nodes), vocab * per_token),
        slot_K=np.tile(np.repeat(np.arange(vocab), per_token), nodes),
        reward_K=np.zeros(count),
        half_K=np.arange(count) % 2,
        start_K=start,
        stop_K=stop,
        log_ratio_T=ratio,
    )
    batch = replace(batch, continuations=rolled)
    method = get(spec(gamma))
    direction, variance = method.ascent(batch), method.squared_deviation(batch)
    for n in range(nodes):
        p, q = np.exp(batch.log_p_NS[n]), np.exp(batch.log_q_NS[n])
        draws = []
        for k in np.flatnonzero(rolled.node_K == n):
            token, steps = rolled.slot_K[k], range(start[k], stop[k])
            future = sum(gamma ** (i + 1) * ratio[t] for i, t in enumerate(steps))
            push = (np.log(q[token] / p[token]) + future) * (np.eye(vocab)[token] - p)
            draws.append((p[token] / per_token, push))
        mean = sum(chance * push for chance, push in draws)
        np.testing.assert_allclose(direction[n], mean, atol=1e-9)
        wanted = sum(chance * ((push - mean) ** 2).sum() for chance, push in draws)
        assert variance[n] == pytest.approx(wanted, abs=1e-9)
