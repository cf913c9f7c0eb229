"""Overlap and divergences against slow loops over tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.alignment.overlap import overlap
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.models.distributions import position_view


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


@pytest.mark.parametrize(("k", "vocab", "left"), [(16, 5, 5), (16, 24, 6), (4, 24, 3), (8, 8, 1)])
def test_k_larger_than_the_support(k, vocab, left):
    """A vocabulary smaller than k, and models that can choose `left` tokens only."""
    rng = np.random.default_rng([k, vocab])
    log_p, log_q = random_pair(k, vocab=vocab)
    for log in (log_p, log_q):
        keep = rng.permuted(np.tile(np.arange(vocab), (len(log), 1)), axis=1) < left
        log[~keep] = -np.inf
        log -= np.log(np.exp(log).sum(1, keepdims=True))
    found = overlap(*top(log_p, min(k, vocab)), *top(log_q, min(k, vocab)))
    empty = 0
    for n in range(len(log_p)):
        can = [{t for t in range(vocab) if log[n, t] > -np.inf} for log in (log_p, log_q)]
        tops = [
            set(sorted(tokens, key=lambda t: -log[n, t])[:k])
            for tokens, log in zip(can, (log_p, log_q), strict=True)
        ]
        shared = sorted(tops[0] & tops[1])
        empty += not shared
        p, q = np.exp(log_p[n, shared]), np.exp(log_q[n, shared])
        assert found.ratio_L[n] == len(shared) / max(map(len, tops))
        assert found.mass_student_L[n] == pytest.approx(sum(p), abs=1e-9)
        assert found.mass_teacher_L[n] == pytest.approx(sum(q), abs=1e-9)
        if shared:
            own = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True)]
            wanted = sum(a * np.log(b / a) for a, b in own) / len(shared)
            assert found.advantage_L[n] == pytest.approx(wanted, abs=1e-9)
            wanted = sum(b * np.log(b / a) for a, b in zip(p, q, strict=True))
            assert found.advantage_verl_L[n] == pytest.approx(wanted, abs=1e-9)
        else:
            assert np.isnan([found.advantage_L[n], found.advantage_verl_L[n]]).all()
    assert empty > 0 or left == vocab


@pytest.mark.parametrize("left", [3, 40])
def test_a_model_overlaps_with_itself_however_few_tokens_it_has(left):
    log_p, _ = random_pair(1)
    log_p[:, left:] = -np.inf
    assert (overlap(*top(log_p, 16), *top(log_p, 16)).ratio_L == 1).all()


def test_entropy_and_top_tokens_of_a_pass():
    """What the table of tokens is made of, k below and above the vocabulary."""
    log_p, _ = random_pair(2, count=6, vocab=12)
    drawn = np.arange(6)
    for k in (4, 16):
        view = position_view(torch.from_numpy(log_p), drawn, k)
        for n in range(6):
            entropy = -sum(np.exp(x) * x for x in log_p[n])
            assert view.entropy_L[n] == pytest.approx(entropy, abs=1e-6)  # kept as float32
            assert view.logprob_L[n] == pytest.approx(log_p[n, drawn[n]], abs=1e-6)
            wanted = sorted(range(12), key=lambda t: -log_p[n, t])[:k]
            assert view.top_ids_LW[n].tolist() == wanted


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
