"""Bias of an estimator, and figures of the one-token signal, against slow definitions."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.diagnostics.horizon import bias2, imbalance, root_ratio, spec
from gradalign.methods import get


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
    from gradalign.methods import NodeBatch

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
