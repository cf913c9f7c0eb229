"""Overlap and divergences against slow loops over tokens."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.diagnostics.divergence import kl_divergence
from gradalign.diagnostics.overlap import overlap


def random_pair(seed, count=40, vocab=30):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(2, count, vocab))
    logits[1] += 0.7 * logits[0]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def top(log_p, k):
    ids = np.argsort(-log_p, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(log_p, ids, 1)


@pytest.mark.parametrize("k", [1, 4, 16, 30])
def test_overlap_against_a_loop(k):
    log_p, log_q = random_pair(k)
    found = overlap(*top(log_p, k), *top(log_q, k))
    for n in range(len(log_p)):
        shared = sorted(set(top(log_p, k)[0][n].tolist()) & set(top(log_q, k)[0][n].tolist()))
        p, q = np.exp(log_p[n, shared]), np.exp(log_q[n, shared])
        assert found.ratio_L[n] == len(shared) / k
        assert found.mass_student_L[n] == pytest.approx(p.sum(), abs=1e-12)
        assert found.mass_teacher_L[n] == pytest.approx(q.sum(), abs=1e-12)
        if not shared:
            assert np.isnan(found.advantage_L[n])
            assert np.isnan(found.advantage_verl_L[n])
            continue
        p_own, q_own = p / p.sum(), q / q.sum()
        wanted = np.mean(p_own * (np.log(q_own) - np.log(p_own)))
        assert found.advantage_L[n] == pytest.approx(wanted, abs=1e-9)
        assert found.advantage_verl_L[n] == pytest.approx(np.sum(q * np.log(q / p)), abs=1e-9)


def test_overlap_of_a_model_with_itself():
    log_p, _ = random_pair(0)
    found = overlap(*top(log_p, 8), *top(log_p, 8))
    assert (found.ratio_L == 1).all()
    np.testing.assert_allclose(found.advantage_L, 0, atol=1e-15)


def test_nothing_shared():
    ids = np.array([[0, 1]], dtype=np.int32)
    found = overlap(ids, np.log([[0.6, 0.4]]), ids + 2, np.log([[0.6, 0.4]]))
    assert found.ratio_L[0] == 0
    assert np.isnan(found.advantage_L[0])


def test_overlap_shapes_must_agree():
    ids = np.zeros((3, 2), dtype=np.int32)
    with pytest.raises(ValueError, match=r"\[positions, k\]"):
        overlap(ids, np.zeros((3, 2)), ids, np.zeros((3, 3)))


def test_divergence_of_dense_distributions():
    log_p, log_q = random_pair(5)
    none = np.full(len(log_p), -np.inf)
    wanted = (np.exp(log_p) * (log_p - log_q)).sum(1)
    np.testing.assert_allclose(kl_divergence(log_p, none, log_q, none), wanted, atol=1e-12)


def test_a_tail_bucket_is_a_lower_bound():
    log_p, log_q = random_pair(6)
    tails = [np.log(np.exp(x[:, 20:]).sum(1)) for x in (log_p, log_q)]
    coarse = kl_divergence(log_p[:, :20], tails[0], log_q[:, :20], tails[1])
    full = (np.exp(log_p) * (log_p - log_q)).sum(1)
    assert (coarse <= full + 1e-12).all()
    assert (coarse >= -1e-12).all()


def test_a_token_that_the_teacher_lacks():
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log([[0.5, 0.5]]), np.log([[1.0, 0.0]])
    none = np.array([-np.inf])
    assert kl_divergence(log_p, none, log_q, none)[0] == np.inf
    assert kl_divergence(log_q, none, log_p, none)[0] == pytest.approx(np.log(2))
