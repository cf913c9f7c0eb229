"""Residues of rounding are no signal: a difference of equal numbers is none, whatever is left."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.alignment import compare, cross_fit, node_sums, pooled, pooled_of_sums
from gradalign.alignment.ideal import ideal_gradient, unbiased_norm2
from gradalign.alignment.scores import (
    ALL_FLAT,
    IDEAL_IS_NOISE,
    METHOD_IS_NOISE,
    NO_DIRECTION,
    pooled_limit,
    pooling_columns,
    why_unpooled,
)
from gradalign.alignment.weights import UpdateGrams, update_estimate
from gradalign.rounding import agreeing_rows, difference, pass_error, settled_ratios


def two_outcomes(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes whose first candidate ended well once in two tries: |ghat|^2 is exactly its noise."""
    rng = np.random.default_rng(3)
    first_N = rng.uniform(0.02, 0.98, count)
    p_NC = np.stack([first_N, 1.0 - first_N], axis=1)
    v_NC = np.tile([0.5, 0.0], (count, 1))
    return p_NC, v_NC, np.tile([0.25, 0.0], (count, 1))


def test_a_gradient_that_equals_its_noise_has_no_length():
    p_NC, v_NC, var_NC = two_outcomes(2000)
    assert (unbiased_norm2(p_NC, v_NC, var_NC) == 0.0).all()
    m_NC = ideal_gradient(p_NC, v_NC)
    sums = node_sums(p_NC, v_NC, var_NC, m_NC)
    assert (sums.ideal_norm2_N == 0.0).all()
    assert np.isnan(pooled(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N))
    columns = pooling_columns(sums.dot_N, sums.ideal_norm2_N, sums.method_norm2_N)
    assert why_unpooled(columns.sum(axis=0)) == IDEAL_IS_NOISE


@pytest.mark.parametrize("rest", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_nearly_certain_student_leaves_no_residue_and_loses_no_signal(rest):
    p_NC = np.array([[1.0 - rest, rest]])
    v_NC = np.array([[0.5, 0.0]])
    assert unbiased_norm2(p_NC, v_NC, [[0.25, 0.0]])[0] == 0.0
    known = unbiased_norm2(p_NC, v_NC, [[0.0, 0.0]])[0]
    assert known == pytest.approx(2 * (rest * (1 - rest) * 0.5) ** 2, rel=1e-6)


def test_equal_values_give_exactly_no_gradient():
    p_NC = np.random.default_rng(1).dirichlet(np.ones(7), size=500)
    value_N = np.random.default_rng(2).uniform(size=500)
    assert (ideal_gradient(p_NC, np.repeat(value_N[:, None], 7, axis=1)) == 0.0).all()


def test_norms_that_cancel_between_nodes_or_halves_are_not_positive():
    parts = np.array([0.1, 0.2, -0.3])
    assert parts.sum() > 0  # 5.6e-17, of rounding alone
    assert np.isnan(pooled([1.0, 1.0, 1.0], parts, np.ones(3)))
    assert np.isnan(pooled([1.0, 1.0, 1.0], np.ones(3), parts))
    columns = pooling_columns(np.ones(3), np.ones(3), parts)
    assert why_unpooled(columns.sum(axis=0)) == METHOD_IS_NOISE
    # Small against what it is made of, but far above rounding: that stays.
    assert np.isfinite(pooled(np.full(3, 1e-6), [0.1, 0.2, -0.299999], np.ones(3)))
    halves = np.array([[[0.1, 0.2, 0.3]], [[1.0, 1.0, -1.0]]])
    assert (halves[0] * halves[1]).sum() > 0
    fitted = cross_fit([[0.5, 0.3, 0.2]], np.zeros((2, 1, 3)), halves)
    assert fitted.method_norm2_N[0] == 0.0


def test_sums_alone_betray_a_length_that_is_a_residue():
    assert np.isnan(pooled_of_sums([1.0, 1e-17, 1.0]))
    assert float(pooled_of_sums([1.0, 0.01, 4.0])) == pytest.approx(5.0)  # noise may do this
    assert float(pooled_of_sums([1e-18, 1.0, 1.0])) == 0.0


def test_why_there_is_none():
    assert why_unpooled([0.0, 0.0, 1.0, 0.0, 1.0]) == ALL_FLAT
    assert why_unpooled([0.0, 1.0, 0.0, 1.0, 0.0]) == NO_DIRECTION
    assert why_unpooled([0.1, -0.2, 1.0, 0.5, 1.0]) == IDEAL_IS_NOISE
    assert why_unpooled([0.1, 0.2, 1.0, 0.5, 1.0]) == ""


def test_a_side_is_known_where_the_length_is_not():
    assert pooled_limit([0.3, -0.1, 1.0]) == np.inf
    assert pooled_limit([-0.3, -0.1, 1.0]) == -np.inf
    assert np.isnan(pooled_limit([0.0, -0.1, 1.0]))
    assert np.isnan(pooled_limit([0.3, 0.1, 0.0]))
    assert pooled_limit([1.0, 4.0, 1.0]) == pooled_of_sums([1.0, 4.0, 1.0])


def test_two_ways_of_writing_one_method_do_not_differ_significantly():
    rng = np.random.default_rng(8)
    dot_N, norm_N = rng.normal(0.5, 1.0, 30), rng.uniform(1, 2, 30)
    first = pooling_columns(dot_N, norm_N, norm_N)
    second = first.copy()
    second[:, 0] *= 1 + 4e-16  # the same formula, summed in another order
    assert (pooled_of_sums(second) - pooled_of_sums(first) != 0).any()
    result = compare(second, first, pooled_of_sums, seed=0, num_resamples=500)
    assert result.span == (0.0, 0.0, 0.0)
    assert result.p_value > 0.9
    assert difference(1.0, 1.0 - 1e-6) == pytest.approx(1e-6)
    assert np.isnan(difference(np.inf, np.inf))


def test_updates_of_different_questions_that_cancel_have_no_length():
    ideal_QQ = np.array([[5.0, 0.1, 0.2], [0.1, 5.0, -0.3], [0.2, -0.3, 5.0]])
    off = ideal_QQ - np.diag(np.diag(ideal_QQ))
    assert off.sum() != 0.0  # -1e-16
    for sign in (1.0, -1.0):
        grams = UpdateGrams(np.ones((3, 3)), sign * ideal_QQ, np.eye(3), np.ones(3))
        found = update_estimate(grams).cosine
        assert np.isnan(found.value)
        assert not found.bounded


def test_two_passes_of_one_model_have_no_ratio():
    rng = np.random.default_rng(4)
    log_p_NS = np.log(rng.dirichlet(np.ones(6), size=50))
    noise_NS = rng.uniform(-1, 1, log_p_NS.shape)
    near_NS = (log_p_NS + 1e-6 * noise_NS).astype(np.float32).astype(np.float64)
    assert agreeing_rows(log_p_NS, near_NS).all()
    far_NS = near_NS.copy()
    far_NS[7, 3] += 1e-3
    assert np.flatnonzero(~agreeing_rows(log_p_NS, far_NS)).tolist() == [7]
    # bfloat16: only where every row is that close; one teacher's word elsewhere keeps them all.
    coarse_NS = log_p_NS + 0.02 * noise_NS
    assert not agreeing_rows(log_p_NS, coarse_NS).any()
    assert agreeing_rows(log_p_NS, coarse_NS, "bfloat16").all()
    coarse_NS[7, 3] += 2.0
    assert not agreeing_rows(log_p_NS, coarse_NS, "bfloat16").any()
    # Mass on one side only is no rounding, and padding is no disagreement.
    gone_NS = np.array([[-0.1, -np.inf, -np.inf]])
    assert agreeing_rows(gone_NS, gone_NS).all()
    assert not agreeing_rows(gone_NS, np.array([[-0.1, -20.0, -np.inf]]), "bfloat16").any()
    assert not agreeing_rows(np.array([[-0.1, -20.0]]), np.array([[-0.1, -np.inf]])).any()


def test_token_ratios_vanish_all_together_or_not_at_all():
    log_p_T = np.array([-0.1, -3.0, -9.0])
    assert (settled_ratios(log_p_T + 1e-6, log_p_T, "float32") == 0.0).all()
    real_T = log_p_T + np.array([1e-6, 1e-6, 0.1])
    assert settled_ratios(real_T, log_p_T, "float32") == pytest.approx(real_T - log_p_T)
    assert pass_error(-9.0, "bfloat16") > 1000 * pass_error(-9.0, "float32")
