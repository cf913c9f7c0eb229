"""The ideal gradient against finite differences, and its noise against simulation."""

import numpy as np
import pytest

from gradalign.alignment.ideal import (
    covariance,
    gradient_map,
    ideal_gradient,
    influence,
    noise_trace,
    renormalise,
    teacher_advantage,
    unbiased_norm2,
)


def _softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_gradient_is_the_derivative_of_the_success_probability_in_the_logits():
    rng = np.random.default_rng(0)
    z, v, step = rng.normal(size=6), rng.random(6), 1e-6
    numeric = [
        (_softmax(z + step * e) @ v - _softmax(z - step * e) @ v) / (2 * step) for e in np.eye(6)
    ]
    np.testing.assert_allclose(ideal_gradient(_softmax(z), v), numeric, atol=1e-9)


def test_gradient_on_part_of_the_vocabulary_is_that_of_the_conditioned_policy():
    p, v = np.array([0.5, 0.2, 0.1]), np.array([0.2, 0.9, 0.4])
    tilde = p / p.sum()
    np.testing.assert_allclose(ideal_gradient(p, v), tilde * (v - tilde @ v), atol=1e-15)
    padded = ideal_gradient([0.5, 0.2, 0.1, 0.0], [*v, np.nan], [True, True, True, False])
    np.testing.assert_allclose(padded, [*ideal_gradient(p, v), 0.0])
    assert abs(ideal_gradient(p, v).sum()) < 1e-15


def test_covariance_and_traces_agree_with_each_other_and_with_simulation():
    rng = np.random.default_rng(1)
    p, v = rng.dirichlet(np.ones(5)), rng.random(5)
    n = np.array([2, 3, 5, 8, 4])
    var = v * (1 - v) / n
    exact = covariance(p, var)
    assert np.trace(exact) == pytest.approx(float(noise_trace(p, var)))
    assert float((influence(p) * var).sum()) == pytest.approx(np.trace(exact))
    np.testing.assert_allclose(gradient_map(p) @ v, ideal_gradient(p, v))
    draws = rng.binomial(n, v, size=(200_000, 5)) / n
    g = ideal_gradient(np.broadcast_to(p, draws.shape), draws)
    np.testing.assert_allclose(np.cov(g.T), exact, atol=4e-5)


def test_squared_norm_is_unbiased_and_the_plain_one_is_not():
    rng = np.random.default_rng(2)
    p, v, n = rng.dirichlet(np.ones(4)), np.array([0.4, 0.5, 0.6, 0.5]), 3
    hits = rng.binomial(n, v, size=(100_000, 4)) / n
    var = hits * (1 - hits) / (n - 1)
    p_NC = np.broadcast_to(p, hits.shape)
    estimate = unbiased_norm2(p_NC, hits, var)
    truth = float((ideal_gradient(p, v) ** 2).sum())
    error = estimate.std() / np.sqrt(len(estimate))
    assert abs(estimate.mean() - truth) < 4 * error
    assert ((ideal_gradient(p_NC, hits) ** 2).sum(axis=1)).mean() > truth + 20 * error


def test_teacher_advantage_is_what_the_teachers_choice_gains():
    p, q, v = np.array([0.6, 0.3]), np.array([0.1, 0.7]), np.array([0.0, 1.0])
    assert float(teacher_advantage(p, q, v)) == pytest.approx(0.7 / 0.8 - 0.3 / 0.9)


def test_rows_without_anything_measured_are_zero():
    mask = np.zeros((1, 3), dtype=bool)
    p, v = np.full((1, 3), 0.2), np.full((1, 3), np.nan)
    assert not renormalise(p, mask).any()
    assert not ideal_gradient(p, v, mask).any()
    assert float(noise_trace(p, v, mask)[0]) == 0.0


@pytest.mark.parametrize("p", [[-0.1, 1.1], [np.nan, 0.5]])
def test_probabilities_that_are_none_are_refused(p):
    with pytest.raises(ValueError, match="finite, non-negative"):
        ideal_gradient(p, [0.0, 1.0])


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"v must have the shape of p, \(2,\), got \(3,\)"):
        ideal_gradient([0.5, 0.5], [0.0, 1.0, 0.0])
