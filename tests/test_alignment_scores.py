"""Cosines, pooling, the noise correction and cross-fitting, against cases with known answers."""

import numpy as np
import pytest

from gradalign.alignment import (
    balanced,
    cosine,
    cross_fit,
    mean_alignment,
    node_sums,
    pooled,
    pooled_of_sums,
    question_sums,
)
from gradalign.alignment.ideal import ideal_gradient


def _nodes(rng, count, width):
    p_NC = rng.dirichlet(np.full(width, 0.8), size=count)
    v_NC = np.clip(rng.random((count, 1)) + rng.normal(0, 0.15, (count, width)), 0.02, 0.98)
    return p_NC, v_NC


def _binomial(rng, v_NC, n):
    hits_NC = rng.binomial(n, v_NC) / n
    return hits_NC, hits_NC * (1 - hits_NC) / (n - 1)


@pytest.mark.parametrize("b", [0.1, 1.0, 7.0])
def test_teacher_tilted_by_success_makes_reverse_kl_parallel_to_the_ideal(b):
    rng = np.random.default_rng(3)
    p_NC, v_NC = _nodes(rng, 50, 6)
    q_NC = p_NC * np.exp(v_NC / b)
    q_NC /= q_NC.sum(axis=1, keepdims=True)
    r_NC = np.log(q_NC / p_NC)
    m_NC = p_NC * (r_NC - (p_NC * r_NC).sum(axis=1, keepdims=True))
    scores = cosine(ideal_gradient(p_NC, v_NC), m_NC)
    np.testing.assert_allclose(scores.value_N, 1.0, atol=1e-9)
    sums = node_sums(p_NC, v_NC, np.zeros_like(v_NC), m_NC)
    weight = rng.random(50) + 0.5
    assert pooled(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N, weight) == pytest.approx(1)


def test_undefined_cosines_say_why_and_are_left_out_of_means():
    g = ideal_gradient([[0.5, 0.5], [0.5, 0.5], [0.4, 0.6]], [[1, 1], [0, 1], [0, 1]])
    scores = cosine(g, [[0.1, -0.1], [0.0, 0.0], [-0.2, 0.2]])
    assert scores.reason_N.tolist() == ["flat", "zero_method", ""]
    assert np.isnan(scores.value_N[:2]).all()
    assert mean_alignment(scores.value_N) == pytest.approx(1.0)
    assert np.isnan(mean_alignment([np.nan]))
    assert np.isnan(pooled([0.0], [0.0], [1.0]))


def test_equal_values_that_are_no_binary_fractions_are_flat_too():
    v = np.full((1, 3), 1 / 3)
    assert cosine(ideal_gradient([[0.2, 0.3, 0.5]], v), [[1.0, -1.0, 0.0]]).reason_N[0] == "flat"


def test_pooling_is_the_cosine_of_one_long_vector():
    rng = np.random.default_rng(4)
    p_NC, v_NC = _nodes(rng, 9, 4)
    m_NC = rng.normal(size=(9, 4))
    sums = node_sums(p_NC, v_NC, np.zeros_like(v_NC), m_NC)
    g, m = ideal_gradient(p_NC, v_NC).ravel(), m_NC.ravel()
    expected = g @ m / np.linalg.norm(g) / np.linalg.norm(m)
    assert pooled(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N) == pytest.approx(expected)


def test_two_continuations_are_enough_for_pooling_but_attenuate_the_mean():
    rng = np.random.default_rng(5)
    p_NC, v_NC = _nodes(rng, 20_000, 4)
    m_NC = ideal_gradient(p_NC, v_NC)
    hits_NC, var_NC = _binomial(rng, v_NC, 2)
    sums = node_sums(p_NC, hits_NC, var_NC, m_NC)
    assert pooled(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N) == pytest.approx(1, abs=0.06)
    g_NC = ideal_gradient(p_NC, hits_NC)
    plain = (g_NC**2).sum(axis=1)
    assert pooled(sums.dot_N, plain, sums.method_norm2_N) < 0.75
    assert mean_alignment(cosine(g_NC, m_NC).value_N) < 0.75


def test_balanced_alignment_corrects_the_mean_for_noise():
    # Where every |g*| is alike it is the mean of the cosines, but two continuations are enough.
    rng = np.random.default_rng(14)
    p_NC = np.full((20_000, 2), 0.5)
    v_NC = rng.permuted(np.tile([0.3, 0.7], (20_000, 1)), axis=1)
    sign_N = np.where(rng.random(20_000) < 0.8, 1.0, -1.0)
    length_N = rng.gamma(1.0, size=20_000)
    m_NC = (sign_N * length_N)[:, None] * ideal_gradient(p_NC, v_NC)
    truth = mean_alignment(cosine(ideal_gradient(p_NC, v_NC), m_NC).value_N)
    hits_NC, var_NC = _binomial(rng, v_NC, 2)
    sums = node_sums(p_NC, hits_NC, var_NC, m_NC)
    noisy = mean_alignment(cosine(ideal_gradient(p_NC, hits_NC), m_NC).value_N)
    corrected = balanced(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N)
    assert truth == pytest.approx(0.6, abs=0.02)
    assert corrected == pytest.approx(truth, abs=0.04)
    assert abs(noisy - truth) > 0.08


def test_weights_undo_unequal_inclusion():
    rng = np.random.default_rng(6)
    p_NC, v_NC = _nodes(rng, 400, 4)
    m_NC = rng.normal(size=p_NC.shape) * 0.02 + ideal_gradient(p_NC, v_NC)
    sums = node_sums(p_NC, v_NC, np.zeros_like(v_NC), m_NC)
    columns = np.stack((sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N), axis=1)
    truth = columns.sum(axis=0)
    prob_N = np.clip(columns[:, 1] / columns[:, 1].mean(), 0.1, 1.0)
    drawn = rng.random((4000, 400)) < prob_N
    totals = drawn @ (columns / prob_N[:, None])
    error = totals.std(axis=0) / np.sqrt(len(totals))
    assert (abs(totals.mean(axis=0) - truth) < 4 * error).all()


def test_cross_fitting_removes_the_noise_that_a_method_shares_with_the_ideal():
    # Dr. GRPO's expected direction is the ideal gradient of ITS OWN continuations, and here it
    # is turned by 90 degrees at every second node, so that the true alignment is 0.
    rng = np.random.default_rng(7)
    p_NC, v_NC = _nodes(rng, 20_000, 4)
    sign_N1 = np.where(np.arange(20_000) % 2, 1.0, -1.0)[:, None]
    true_NC = ideal_gradient(p_NC, v_NC)
    truth = pooled(
        (sign_N1 * true_NC * true_NC).sum(axis=1), (true_NC**2).sum(axis=1),
        (true_NC**2).sum(axis=1),
    )  # fmt: skip
    halves = [_binomial(rng, v_NC, 2)[0] for _ in range(2)]
    half_m = [sign_N1 * ideal_gradient(p_NC, v) for v in halves]
    fitted = cross_fit(p_NC, np.stack(halves), np.stack(half_m))
    value = pooled(fitted.dot_N, fitted.ideal_norm2_N, fitted.method_norm2_N)
    assert value == pytest.approx(truth, abs=0.08)


def test_without_cross_fitting_dr_grpo_is_inflated():
    rng = np.random.default_rng(8)
    p_NC, v_NC = _nodes(rng, 20_000, 4)
    # The method follows success on another task: only half of its signal is the ideal's.
    other_NC = np.clip(v_NC[:, ::-1], 0, 1)
    true_g, true_m = ideal_gradient(p_NC, v_NC), ideal_gradient(p_NC, 0.5 * (v_NC + other_NC))
    truth = pooled((true_g * true_m).sum(axis=1), (true_g**2).sum(axis=1), (true_m**2).sum(axis=1))
    halves, half_m = [], []
    for _ in range(2):
        mine, other = rng.binomial(2, v_NC) / 2, rng.binomial(2, other_NC) / 2
        halves.append(mine)
        half_m.append(ideal_gradient(p_NC, 0.5 * (mine + other)))
    fitted = cross_fit(p_NC, np.stack(halves), np.stack(half_m))
    unbiased = pooled(fitted.dot_N, fitted.ideal_norm2_N, fitted.method_norm2_N)
    both, method = np.mean(halves, axis=0), np.mean(half_m, axis=0)
    var_NC = np.var(halves, axis=0, ddof=1) / 2
    naive = node_sums(p_NC, both, var_NC, method)
    inflated = pooled(naive.dot_N, naive.ideal_norm2_N, naive.method_norm2_N)
    assert abs(unbiased - truth) < 0.06
    assert inflated > truth + 0.15


def test_question_sums_weigh_and_group():
    sums = question_sums(["b", "a", "b"], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [1.0, 2.0, 0.5])
    np.testing.assert_allclose(sums, [[6.0, 8.0], [3.5, 5.0]])
    assert float(pooled_of_sums([1.0, 4.0, 1.0])) == pytest.approx(0.5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        cosine(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="halves"):
        cross_fit(np.ones((2, 3)), np.zeros((3, 2, 3)), np.zeros((3, 2, 3)))
    with pytest.raises(ValueError, match="question"):
        question_sums(["a"], np.zeros((2, 3)))
