"""Tokens that a teacher's server said nothing of, against the dense distributions."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign import methods
from gradalign.analysis.node_views import Support, drop_unknown_tokens
from gradalign.methods.batch import NodeBatch

VOCAB = 12


def normalised(rng: np.random.Generator, num_nodes: int) -> np.ndarray:
    logits = rng.normal(size=(num_nodes, VOCAB)) * 2
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.fixture
def dense() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return normalised(rng, 3), normalised(rng, 3)


def support_of(log_p, log_q, kept, unknown, temperatures=(2.0,)) -> Support:
    """Store the tokens of `kept`, with the teacher's NaN at those of `unknown`."""
    width = max(map(len, kept))
    ids = np.array([sorted(row) + [-1] * (width - len(row)) for row in kept])
    mask = ids >= 0
    row = np.arange(len(ids))[:, None]
    lost = np.array([[t in gone for t in line] for line, gone in zip(ids, unknown, strict=True)])
    outside = np.ones_like(log_p, dtype=bool)
    for n, line in enumerate(kept):
        outside[n, list(line)] = False
    hidden = outside.copy()
    for n, gone in enumerate(unknown):
        hidden[n, list(gone)] = True
    with np.errstate(divide="ignore"):
        return Support(
            ids_NS=ids,
            mask_NS=mask,
            log_p_NS=np.where(mask, log_p[row, ids], -np.inf),
            log_q_NS=np.where(lost, np.nan, np.where(mask, log_q[row, ids], -np.inf)),
            log_tail_p_N=np.log((np.exp(log_p) * outside).sum(axis=1)),
            log_tail_q_N=np.log((np.exp(log_q) * hidden).sum(axis=1)),
            num_tail_N=outside.sum(axis=1),
            tail_powers={
                t: (
                    np.log((np.exp(log_p / t) * outside).sum(axis=1)),
                    np.full(len(ids), np.nan),
                )
                for t in temperatures
            },
            top_limit=6,
        )


def test_what_is_not_known_moves_to_the_tails(dense):
    log_p, log_q = dense
    kept = [[0, 1, 2, 3, 5, 7, 8], [1, 2, 4, 6, 9, 10, 11], [0, 3, 4, 5, 6, 7, 8]]
    unknown = [[1, 7], [], [3]]
    found = drop_unknown_tokens(support_of(log_p, log_q, kept, unknown))
    for n in range(3):
        left = [t for t in kept[n] if t not in unknown[n]]
        ids = found.ids_NS[n][found.mask_NS[n]]
        assert ids.tolist() == left
        np.testing.assert_allclose(found.log_p_NS[n][found.mask_NS[n]], log_p[n, left])
        np.testing.assert_allclose(found.log_q_NS[n][found.mask_NS[n]], log_q[n, left])
        assert np.isneginf(found.log_p_NS[n][~found.mask_NS[n]]).all()
        rest = [t for t in range(VOCAB) if t not in left]
        assert found.num_tail_N[n] == len(rest)
        assert np.exp(found.log_tail_p_N[n]) == pytest.approx(np.exp(log_p[n, rest]).sum())
        assert np.exp(found.log_tail_q_N[n]) == pytest.approx(np.exp(log_q[n, rest]).sum())
        student, teacher = (power[n] for power in found.tail_powers[2.0])
        assert np.exp(student) == pytest.approx(np.exp(log_p[n, rest] / 2).sum())
        even = np.exp(log_q[n, rest]).sum() / len(rest)
        assert np.exp(teacher) == pytest.approx(len(rest) * np.sqrt(even))


def test_the_limit_of_top_tokens_falls_to_what_is_known(dense):
    log_p, log_q = dense
    kept = [list(range(VOCAB))] * 3
    third = int(np.argsort(-log_p[1])[2])
    assert drop_unknown_tokens(support_of(log_p, log_q, kept, [[], [third], []])).top_limit == 2
    assert drop_unknown_tokens(support_of(log_p, log_q, kept, [[], [], []])).top_limit == 6


def test_methods_see_the_same_distribution_as_from_a_smaller_support(dense):
    """Dropping a token afterwards is the same as never having kept it."""
    log_p, log_q = dense
    kept, gone = [[0, 1, 2, 3, 5, 7, 8]] * 3, [[1, 7], [0], [8]]
    smaller = [[t for t in kept[n] if t not in gone[n]] for n in range(3)]
    views = []
    for support in (
        support_of(log_p, log_q, kept, gone, ()),
        support_of(log_p, log_q, smaller, [[], [], []], ()),
    ):
        known = drop_unknown_tokens(support)
        batch = NodeBatch(
            log_p_NS=known.log_p_NS,
            log_q_NS=known.log_q_NS,
            mask_NS=known.mask_NS,
            log_tail_p_N=known.log_tail_p_N,
            log_tail_q_N=known.log_tail_q_N,
            num_tail_N=known.num_tail_N,
            ids_NS=known.ids_NS,
            sampled_N=np.full(3, -1),
            top_limit=known.top_limit,
        )
        ascent = methods.get("gkd:beta=1").ascent(batch)
        views.append(
            {
                (n, int(t)): ascent[n, s]
                for n, row in enumerate(known.ids_NS)
                for s, t in enumerate(row)
                if t >= 0
            }
        )
    assert views[0].keys() == views[1].keys()
    for key, value in views[0].items():
        assert value == pytest.approx(views[1][key], abs=1e-12)
