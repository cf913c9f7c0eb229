"""The whole direction against the vocabulary written out, and the bound of what is not known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradalign.analysis.node_views import NodeView
from gradalign.analysis.whole import WholeDirection
from gradalign.methods.batch import NodeBatch

VOCABULARY, SUPPORT = 9, 5
CANDIDATES = ((1, 3), (0, 4), (2, 2))
"""Slots of each node's candidates; the last node has one alone."""
MASK = np.array([[True, True], [True, True], [True, False]])


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray, NodeView]:
    """P over the vocabulary, a direction that sums to 0, and what is stored of both."""
    rng = np.random.default_rng(seed)
    p_NV = rng.dirichlet(np.ones(VOCABULARY), size=3)
    m_NV = rng.normal(size=p_NV.shape)
    m_NV[:, SUPPORT:] = m_NV[:, SUPPORT:].mean(axis=1, keepdims=True)  # even on the tail
    m_NV[:, SUPPORT:] -= m_NV.sum(axis=1, keepdims=True) / (VOCABULARY - SUPPORT)
    with np.errstate(divide="ignore"):
        log_p_NS, log_tail_N = np.log(p_NV[:, :SUPPORT]), np.log(p_NV[:, SUPPORT:].sum(axis=1))
    batch = NodeBatch(
        log_p_NS=log_p_NS,
        log_q_NS=log_p_NS,
        mask_NS=np.ones((3, SUPPORT), dtype=bool),
        log_tail_p_N=log_tail_N,
        log_tail_q_N=log_tail_N,
        num_tail_N=np.full(3, VOCABULARY - SUPPORT),
        ids_NS=np.tile(10 + np.arange(SUPPORT), (3, 1)),
        sampled_N=np.zeros(3, dtype=np.int64),
        top_limit=SUPPORT,
    )
    slot_NC = np.array(CANDIDATES)
    p_NC = np.take_along_axis(p_NV, slot_NC, axis=1)
    return p_NV, m_NV, NodeView(batch, np.arange(3), slot_NC, p_NC, MASK)


def test_it_is_as_long_as_the_direction_on_the_whole_vocabulary():
    _, m_NV, view = made()
    whole = WholeDirection.of(m_NV[:, :SUPPORT], view)
    np.testing.assert_allclose(whole.norm2_N, (m_NV**2).sum(axis=1), rtol=1e-12)
    _, other_NV, _ = made(1)
    other = WholeDirection.of(other_NV[:, :SUPPORT], view)
    np.testing.assert_allclose(whole.product(other), (m_NV * other_NV).sum(axis=1), rtol=1e-12)
    inside = np.take_along_axis(m_NV, view.slot_NC, axis=1) * MASK
    np.testing.assert_allclose(whole.inside_NC, inside)
    np.testing.assert_allclose(whole.share_inside_N, (inside**2).sum(axis=1) / whole.norm2_N)


def test_a_single_candidate_still_costs_length():
    """A student that is all but certain: what a teacher pushes there is paid for."""
    _, m_NV, view = made()
    whole = WholeDirection.of(m_NV[:, :SUPPORT], view)
    assert whole.norm2_N[2] > 0.0
    assert whole.norm2_N[2] > whole.inside_NC[2, 0] ** 2


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_for_whatever_values_the_other_tokens_have(seed):
    p_NV, m_NV, view = made(seed)
    whole = WholeDirection.of(m_NV[:, :SUPPORT], view)
    rng = np.random.default_rng(seed)
    for node, (slots, mask) in enumerate(zip(CANDIDATES, MASK, strict=True)):
        inside = np.array(slots)[mask]
        value_C = rng.random(len(inside))
        p_C = p_NV[node, inside]
        taken = p_C * (value_C - p_C @ value_C / p_C.sum()) @ m_NV[node, inside]
        bound = whole.dot_bound(np.take_along_axis(p_NV, view.slot_NC, axis=1))[node]
        others = [v for v in range(VOCABULARY) if v not in inside]
        largest = 0.0
        for corner in itertools.product((0.0, 1.0), repeat=len(others)):
            value_V = np.zeros(VOCABULARY)
            value_V[inside], value_V[others] = value_C, corner
            true = p_NV[node] * (value_V - p_NV[node] @ value_V) @ m_NV[node]
            largest = max(largest, abs(true - taken))
        assert largest <= bound + 1e-12


def test_what_is_stored_outside_the_candidates_is_all_but_a_little_of_it():
    _, m_NV, view = made()
    whole = WholeDirection.of(m_NV[:, :SUPPORT], view)
    slot_NX = whole.others()
    for node in range(3):
        slots = [slot for slot in slot_NX[node] if slot >= 0]
        assert not set(slots) & set(np.array(CANDIDATES[node])[MASK[node]])
        left = set(range(SUPPORT)) - set(slots) - set(np.array(CANDIDATES[node])[MASK[node]])
        lost = sum(m_NV[node, slot] ** 2 for slot in left)
        assert lost <= 1e-4 * whole.norm2_N[node]
    np.testing.assert_allclose(
        whole.at(slot_NX)[slot_NX >= 0],
        np.take_along_axis(m_NV, np.maximum(slot_NX, 0), axis=1)[slot_NX >= 0],
    )
    assert (whole.at(slot_NX)[slot_NX < 0] == 0).all()


def test_a_direction_on_candidates_alone_and_one_that_is_nowhere():
    _, m_NV, view = made()
    inside_NC = np.take_along_axis(m_NV, view.slot_NC, axis=1)
    inside_NC = np.where(MASK, inside_NC - inside_NC.mean(axis=1, keepdims=True), 0.0)
    whole = WholeDirection.of_candidates(inside_NC, view)
    np.testing.assert_allclose(whole.inside_NC, inside_NC * MASK)
    np.testing.assert_allclose(whole.norm2_N[:2], (inside_NC[:2] ** 2).sum(axis=1), atol=1e-12)
    nowhere = WholeDirection.of(np.full((3, SUPPORT), np.nan), view)
    assert (nowhere.norm2_N == 0).all()
    assert np.isnan(nowhere.share_inside_N).all()
    assert (nowhere.others() == -1).all()
