"""The consensus of several contexts against loops, and what makes it the consensus."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradalign import methods
from gradalign.diagnostics.contexts import consensus
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.methods import NodeBatch


def random_contexts(seed, contexts=3, count=10, vocab=12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(contexts, count, vocab))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_consensus(rows):
    """Geometric mean, normalised, from lists of probabilities."""
    raw = [math.prod(column) ** (1 / len(rows)) for column in zip(*rows, strict=True)]
    return [x / sum(raw) for x in raw]


@pytest.mark.parametrize("tail", [0, 4])
@pytest.mark.parametrize("contexts", [1, 2, 5])
def test_against_a_loop(tail, contexts):
    log_q = random_contexts(contexts, contexts)
    inside, outside = log_q[..., tail:], np.full(log_q.shape[:2], -np.inf)
    if tail:
        outside = np.log(np.exp(log_q[..., :tail]).sum(-1))
    found = consensus(inside, outside)
    for n in range(log_q.shape[1]):
        rows = [[*np.exp(inside[i, n]), math.exp(outside[i, n])] for i in range(contexts)]
        wanted = slow_consensus(rows)
        got = [*np.exp(found.log_c_NS[n]), math.exp(found.log_tail_c_N[n])]
        np.testing.assert_allclose(got, wanted, atol=1e-9)
        conflict = sum(slow_kl(wanted, row) for row in rows) / contexts
        divergence = sum(slow_kl(row, wanted) for row in rows) / contexts
        assert found.conflict_N[n] == pytest.approx(conflict, abs=1e-9)
        assert found.divergence_N[n] == pytest.approx(divergence, abs=1e-9)


def test_what_can_be_learned_and_what_cannot_add_up():
    """Mean KL(P||Q_I) = KL(P||C) + conflict, whatever P is."""
    log_q, log_p = random_contexts(1), random_contexts(2, 1)[0]
    none = np.full(log_p.shape[0], -np.inf)
    found = consensus(log_q, np.tile(none, (3, 1)))
    mean = np.mean([kl_divergence(log_p, none, q, none) for q in log_q], axis=0)
    shared = kl_divergence(log_p, none, found.log_c_NS, found.log_tail_c_N)
    np.testing.assert_allclose(mean, shared + found.conflict_N, atol=1e-9)
    assert (shared > 0).all()


def test_the_direction_to_the_consensus_is_the_mean_direction():
    log_q, log_p = random_contexts(3), random_contexts(4, 1)[0]
    found = consensus(log_q, np.full(log_q.shape[:2], -np.inf))
    opd = methods.get("opd")
    each = [opd.ascent(NodeBatch.from_logits(log_p, q)) for q in log_q]
    to_consensus = opd.ascent(NodeBatch.from_logits(log_p, found.log_c_NS))
    np.testing.assert_allclose(to_consensus, np.mean(each, axis=0), atol=1e-9)


def test_contexts_that_say_the_same_do_not_conflict():
    log_q = random_contexts(5, 1)
    found = consensus(np.repeat(log_q, 4, axis=0), np.full((4, 10), -np.inf))
    np.testing.assert_allclose(found.log_c_NS, log_q[0], atol=1e-12)
    np.testing.assert_allclose(found.conflict_N, 0, atol=1e-12)


def test_padding_stays_padding():
    log_q = random_contexts(6)
    padded = np.concatenate([log_q, np.full((3, 10, 2), -np.inf)], axis=2)
    found = consensus(padded, np.full((3, 10), -np.inf))
    assert (found.log_c_NS[:, -2:] == -np.inf).all()
    same = consensus(log_q, np.full((3, 10), -np.inf))
    np.testing.assert_array_equal(found.conflict_N, same.conflict_N)


def test_contexts_without_a_token_in_common():
    with np.errstate(divide="ignore"):
        log_q = np.log([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = consensus(log_q, np.full((2, 1), -np.inf))
    assert found.conflict_N[0] == np.inf
    assert (found.log_c_NS == -np.inf).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\[contexts, nodes, support\]"):
        consensus(np.zeros((2, 3)), np.zeros(2))
