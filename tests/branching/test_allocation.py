"""Rounds: who gets how many continuations, and what a driver may rely on."""

import numpy as np
import pytest
from language import STOP, Language, drive

from gradalign.alignment.ideal import influence
from gradalign.branching import NodePlan, QuestionBranching
from gradalign.branching.neyman import fill, whole
from gradalign.errors import UnknownNameError


def _plan(position=0, prob=(0.6, 0.3, 0.1), ids=(1, 2, 3), inclusion=1.0, spine=0):
    return NodePlan(spine, position, inclusion, np.array(ids), np.array(prob))


def _answer(branching, reward):
    """Observe a round with rewards given by a function of the request; return the requests."""
    requests = branching.next_requests()
    for request in requests:
        branching.observe(request, [7, STOP], reward(request))
    return requests


def _forced(requests):
    counts = {}
    for request in requests:
        counts[request.node, request.slot] = counts.get((request.node, request.slot), 0) + 1
    return counts


def test_uniform_is_one_round_with_the_same_number_everywhere():
    branching = QuestionBranching([[1, 2, 3]], [_plan()], allocation="uniform", per_candidate=5)
    requests = _answer(branching, lambda r: r.number % 2)
    assert _forced(requests) == {(0, 0): 5, (0, 1): 5, (0, 2): 5}
    assert branching.done
    assert branching.next_requests() == []
    np.testing.assert_allclose(branching.estimates().value_NC, 0.4)
    np.testing.assert_allclose(branching.estimates().var_NC, 0.4 * 0.6 / 4)


def test_a_budget_is_shared_and_everybody_gets_two():
    uniform = QuestionBranching([[1, 2]], [_plan()], allocation="uniform", budget=13)
    assert set(_forced(uniform.next_requests()).values()) == {4}
    poor = QuestionBranching([[1, 2]], [_plan()], allocation="neyman", budget=0)
    assert set(_forced(_answer(poor, lambda r: 1.0)).values()) == {2}
    assert poor.done


def test_the_pilot_follows_probabilities_alone():
    branching = QuestionBranching([[1, 2]], [_plan()], budget=120, pilot_share=0.5)
    pilot = _forced(branching.next_requests())
    a = np.sqrt(influence([0.6, 0.3, 0.1]))
    expected = np.floor(0.5 * 120 * a / a.sum())
    assert [pilot[0, slot] for slot in range(3)] == expected.tolist()


def test_the_main_round_goes_where_rewards_vary():
    branching = QuestionBranching([[1, 2]], [_plan(prob=(0.5, 0.5), ids=(1, 2))], budget=100)
    _answer(branching, lambda r: float(r.slot == 0 or r.number % 2))
    main = _forced(branching.next_requests())
    assert main[0, 1] > 1.5 * main[0, 0] >= 3
    assert 70 <= sum(main.values()) <= 76


def test_a_flat_question_leaves_budget_over_and_never_less_than_two():
    flat = QuestionBranching([[1, 2]], [_plan(prob=(0.5, 0.5), ids=(1, 2))], budget=400)
    first = _answer(flat, lambda r: 0.0)
    second = _answer(flat, lambda r: 0.0)
    assert min(_forced(second).values()) >= 2
    assert len(first) + len(second) < 250
    table = flat.estimates()
    assert not table.value_NC.any()
    assert not table.var_NC.any()


def test_rewards_of_later_rounds_do_not_reach_back_into_weights():
    # Value = w * pilot mean + (1 - w) * main mean with w = pilot / plan, whatever was seen.
    branching = QuestionBranching([[1, 2]], [_plan(prob=(0.5, 0.5), ids=(1, 2))], budget=80)
    pilot = _forced(_answer(branching, lambda r: 1.0))
    _answer(branching, lambda r: 0.0)
    np.testing.assert_allclose(branching.estimates().value_NC[0], pilot[0, 0] / 40)


def test_finished_candidates_are_verified_once_and_exact():
    plan = _plan(prob=(0.5, 0.3, 0.2), ids=(STOP, 2, 3))
    branching = QuestionBranching([[2, 5]], [plan], budget=40, stop_ids={STOP})
    requests = _answer(branching, lambda r: 1.0)
    assert [r for r in requests if r.finished] == [r for r in requests if r.slot == 0]
    assert _forced(requests)[0, 0] == 1
    while not branching.done:
        assert all(r.slot for r in _answer(branching, lambda r: float(r.number % 2)))
    table = branching.estimates()
    assert table.value_NC[0, 0] == 1.0
    assert table.var_NC[0, 0] == 0.0
    assert table.num_NC[0, 0] == 1
    assert table.mask_NC.all()


def test_candidates_at_the_last_position_are_finished():
    plan = _plan(position=2, prob=(0.6, 0.4), ids=(3, 4))
    branching = QuestionBranching([[1, 2, 3]], [plan], per_candidate=4, max_tokens=3)
    requests = branching.next_requests()
    assert len(requests) == 2
    assert all(r.finished for r in requests)
    assert branching.prefix(requests[1]).tolist() == [1, 2, 4]


def test_nodes_without_a_choice_cost_nothing_under_neyman():
    plans = [_plan(0, (0.99,), (1,)), _plan(1, (0.5, 0.5), (2, 9))]
    branching = QuestionBranching([[1, 2, 3]], plans, budget=20)
    requests = []
    while not branching.done:
        requests += _answer(branching, lambda r: float(r.number % 2))
    assert {r.node for r in requests} == {1}
    table = branching.estimates()
    assert not table.mask_NC[0].any()
    assert table.mask_NC[1].all()


def test_order_of_arrival_changes_nothing():
    language = Language(seed=3, vocab=3, depth=5)
    spines = language.sample((), 3, np.random.default_rng(0))
    plans = [language.plan(s, x[:t], 3) for s, x in enumerate(spines) for t in range(len(x))]
    tables = []
    for order in (1, -1):
        branching = QuestionBranching(spines, plans, budget=60, stop_ids={STOP})
        while not branching.done:
            for request in branching.next_requests()[::order]:
                prefix = tuple(branching.prefix(request).tolist())
                seed = [request.number, *prefix]
                response = language.sample(prefix, 1, np.random.default_rng(seed))[0]
                branching.observe(request, response[len(prefix) :], language.value[response])
        tables.append(branching.estimates())
    np.testing.assert_array_equal(tables[0].value_NC, tables[1].value_NC)
    np.testing.assert_array_equal(tables[0].var_NC, tables[1].var_NC)
    np.testing.assert_array_equal(tables[0].half_value_HNC, tables[1].half_value_HNC)


def test_indices_go_on_from_round_to_round():
    branching = QuestionBranching([[1, 2]], [_plan()], budget=60)
    seen = set()
    while not branching.done:
        for request in _answer(branching, lambda r: float(r.number % 2)):
            assert (request.node, request.slot, request.number) not in seen
            seen.add((request.node, request.slot, request.number))
    for slot in range(3):
        indices = sorted(i for _, s, i in seen if s == slot)
        assert indices == list(range(len(indices)))


def test_further_rounds_lower_the_noise_and_stay_unbiased():
    language = Language(seed=5, vocab=3, depth=5, peak=2.0, drift=2.0)
    spines = [max(language.sample((), 40, np.random.default_rng(1)), key=len)]
    plans = [language.plan(0, spines[0][:t], 3) for t in range(len(spines[0]))]
    truth = np.concatenate(
        [language.exact_values(spines[0][: p.position], p.token_ids_C) for p in plans]
    )
    rng, before, after, values = np.random.default_rng(2), [], [], []
    for _ in range(300):
        branching = drive(
            QuestionBranching(spines, plans, budget=50, stop_ids={STOP}), language, rng
        )
        before.append(branching.noise()[0])
        branching.extend(100)
        assert not branching.done
        drive(branching, language, rng)
        after.append(branching.noise()[0])
        values.append(branching.estimates().value_NC[branching.estimates().mask_NC])
    assert np.mean(after) < 0.6 * np.mean(before)
    error = np.std(values, axis=0) / np.sqrt(len(values))
    assert np.max(abs(np.mean(values, axis=0) - truth) / np.maximum(error, 1e-9)) < 4


def test_shares_keep_floors_and_totals():
    share, scale = fill(np.array([4.0, 2.0, 0.1, 0.0]), np.array([2.0, 2.0, 2.0, 0.0]), 14.0)
    np.testing.assert_allclose(share, [8.0, 4.0, 2.0, 0.0])
    assert scale == pytest.approx(2.0)
    assert whole(np.array([1.5, 1.4, 2.1])).tolist() == [2, 1, 2]
    assert fill(np.array([1.0, 1.0]), np.array([2.0, 2.0]), 1.0)[0].tolist() == [2.0, 2.0]


def test_misuse_is_refused():
    with pytest.raises(UnknownNameError, match="greedy"):
        QuestionBranching([[1]], [], allocation="greedy", budget=3)
    with pytest.raises(ValueError, match="budget"):
        QuestionBranching([[1]], [])
    with pytest.raises(ValueError, match="at least 2"):
        QuestionBranching([[1]], [], allocation="uniform", per_candidate=1)
    branching = QuestionBranching([[1, 2]], [_plan()], budget=20)
    request = branching.next_requests()[0]
    with pytest.raises(RuntimeError, match="not observed"):
        branching.next_requests()
    with pytest.raises(RuntimeError, match="not finished"):
        branching.extend(5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        branching.observe(request, [7], 2.0)
    branching.observe(request, [7], 1.0)
    with pytest.raises(ValueError, match="not pending"):
        branching.observe(request, [7], 1.0)


def test_nothing_to_do_is_done_at_once():
    branching = QuestionBranching([[1]], [], budget=5)
    assert branching.done
    assert branching.estimates().value_NC.shape == (0, 0)
