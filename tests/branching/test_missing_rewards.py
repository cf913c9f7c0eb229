"""Continuations whose reward is missing: replaced, counted nowhere, and no cause of bias."""

from __future__ import annotations

import numpy as np
import pytest
from language import STOP, Language

from gradalign.branching import NodePlan, QuestionBranching

OPTIONS = {
    "uniform": {"allocation": "uniform", "per_candidate": 2},
    "neyman": {"allocation": "neyman", "budget": 90, "pilot_share": 0.5},
}


def two_tokens(position=0, spine=0):
    return NodePlan(spine, position, 1.0, np.array([1, 2]), np.array([0.7, 0.3]))


def observe(branching, reward_of):
    requests = branching.next_requests()
    for request in requests:
        branching.observe(request, [7, STOP], reward_of(request))
    return requests


def test_another_continuation_of_the_same_round_and_half_takes_the_place():
    branching = QuestionBranching(
        [[1, 2, 3]], [two_tokens()], allocation="uniform", per_candidate=4
    )
    first = observe(branching, lambda r: None if (r.slot, r.number) == (1, 1) else 1.0)
    assert len(first) == 8
    assert not branching.done
    (again,) = branching.next_requests()
    assert branching.replacing
    assert branching.round_index == 0
    assert (again.node, again.slot) == (0, 1)
    assert again.number > 3
    assert again.number % 2 == 1
    branching.observe(again, [7, STOP], 0.0)
    assert branching.done
    table = branching.estimates()
    assert table.num_NC.tolist() == [[4, 4]]
    np.testing.assert_allclose(table.value_NC, [[1.0, 0.75]])
    np.testing.assert_allclose(table.half_value_HNC[:, 0, 1], [1.0, 0.5])
    rewards = [stored.reward for stored in branching.continuations]
    assert len(branching.observed) == len(rewards) == 8
    assert rewards[branching.observed.index(again)] == 0.0


def test_a_candidate_that_never_has_a_reward_is_not_measured():
    branching = QuestionBranching(
        [[1, 2, 3]], [two_tokens()], allocation="uniform", per_candidate=2
    )
    asked = 0
    while not branching.done:
        asked += len(observe(branching, lambda r: None if r.slot == 1 else 1.0))
    assert asked == 2 + 2 * 3
    table = branching.estimates()
    assert table.mask_NC.tolist() == [[True, False]]
    assert table.num_NC.tolist() == [[2, 0]]
    np.testing.assert_allclose(table.value_NC[0, 0], 1.0)


def test_an_end_that_cannot_be_verified_is_asked_for_once():
    branching = QuestionBranching(
        [[1, 2, 3]],
        [NodePlan(0, 0, 1.0, np.array([1, STOP]), np.array([0.7, 0.3]))],
        allocation="uniform",
        per_candidate=2,
        stop_ids={STOP},
    )
    requests = observe(branching, lambda r: None if r.finished else 1.0)
    assert sum(request.finished for request in requests) == 1
    assert branching.done
    assert branching.estimates().mask_NC.tolist() == [[True, False]]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_later_node_that_lost_a_candidate_takes_no_value_along(name):
    """The nodes above it are measured by the rewards themselves."""
    plans = [two_tokens(position, 0) for position in (0, 1)]
    branching = QuestionBranching([[1, 1, 3]], plans, **OPTIONS[name])
    rng = np.random.default_rng(3)
    while not branching.done:
        for request in branching.next_requests():
            lost = branching.tree.nodes[request.node].depth == 1 and request.slot == 1
            ids = [1, 7, STOP] if request.node == 0 and request.slot == 0 else [7, STOP]
            branching.observe(request, ids, None if lost else float(rng.random() < 0.5))
    table = branching.estimates()
    above = int(np.flatnonzero([plan.position == 0 for plan in branching.plans])[0])
    assert table.mask_NC[above].all()
    assert not table.mask_NC[1 - above, 1]
    if name == "uniform":
        np.testing.assert_allclose(table.value_NC[above, 0], table.mean_reward_NC[above, 0])


@pytest.mark.parametrize("name", OPTIONS)
def test_values_stay_unbiased_when_rewards_are_missing_at_random(name):
    language = Language(seed=5, vocab=3, depth=5, peak=2.0, drift=2.0)
    rng = np.random.default_rng(2)
    spines = max((language.sample((), 2, rng) for _ in range(50)), key=lambda s: len(s[0] + s[1]))
    nodes = [(n, s[:t]) for n, s in enumerate(spines) for t in range(0, len(s), 1 + n)]
    plans = [language.plan(n, prefix, 3) for n, prefix in nodes]
    truth = np.array(
        [
            language.exact_values(prefix, plan.token_ids_C)
            for (_, prefix), plan in zip(nodes, plans, strict=True)
        ]
    )
    values = []
    for _ in range(150):
        branching = QuestionBranching(spines, plans, stop_ids={STOP}, **OPTIONS[name])
        while not branching.done:
            for request in branching.next_requests():
                prefix = tuple(branching.prefix(request).tolist())
                (response,) = language.sample(prefix, 1, rng)
                reward = None if rng.random() < 0.2 else language.value[response]
                branching.observe(request, response[len(prefix) :], reward)
        table = branching.estimates()
        values.append(np.where(table.mask_NC, table.value_NC, np.nan))
    values = np.array(values)
    assert np.isfinite(values).mean() > 0.9
    count = np.isfinite(values).sum(axis=0)
    error = np.nanmean(values, axis=0) - truth
    spread = np.nanstd(values, axis=0) / np.sqrt(count)
    assert np.max(abs(error) / np.maximum(spread, 1e-9), where=spread > 0, initial=0.0) < 4.2
    assert np.max(abs(error), where=spread == 0, initial=0.0) < 1e-9
