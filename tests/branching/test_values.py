"""Values, norms and pooled sums are unbiased, and what selects by outcome is caught.

Each check repeats the sampling many times on a language whose values are known, and asks
whether the mean error is within its own standard error.
"""

from dataclasses import fields

import numpy as np
import pytest
from language import STOP, Language, drive

from gradalign.alignment.ideal import ideal_gradient, noise_trace
from gradalign.branching import Passes, QuestionBranching
from gradalign.branching.visits import Router

REPEATS = 500
VARIANTS = {
    "uniform": {"allocation": "uniform", "per_candidate": 3, "reuse": False},
    "reuse": {"allocation": "uniform", "per_candidate": 3, "backup": False},
    "backup": {"allocation": "uniform", "per_candidate": 3},
    "neyman": {"allocation": "neyman", "budget": 90, "pilot_share": 0.5},
    "neyman-reuse": {"allocation": "neyman", "budget": 90, "backup": False},
}


@pytest.fixture(scope="module")
def world():
    language = Language(seed=5, vocab=3, depth=6, peak=2.0, drift=2.0)
    rng = np.random.default_rng(2)
    spines = max((language.sample((), 2, rng) for _ in range(50)), key=lambda s: len(s[0] + s[1]))
    nodes = [
        (number, spine[:position])
        for number, spine in enumerate(spines)
        for position in range(0, len(spine), 1 + number)
    ]
    plans = [
        language.plan(number, prefix, 2 + len(prefix) % 2, 0.5 + 0.1 * (len(prefix) % 5))
        for number, prefix in nodes
    ]
    truth = [
        language.exact_values(prefix, plan.token_ids_C)
        for (_, prefix), plan in zip(nodes, plans, strict=True)
    ]
    method = [rng.normal(size=len(plan.token_ids_C)) for plan in plans]
    return language, spines, plans, truth, method


def _repeat(world, options, repeats=REPEATS, seed=0):
    """Values and variances of every branch, and the three pooled sums, per repeat."""
    language, spines, plans, _, method = world
    rng = np.random.default_rng(seed)
    values, variances, sums, halves = [], [], [], []
    for _ in range(repeats):
        branching = QuestionBranching(spines, plans, stop_ids={STOP}, **options)
        table = drive(branching, language, rng).estimates()
        assert table.mask_NC.sum() == sum(len(plan.token_ids_C) for plan in plans)
        values.append(table.value_NC[table.mask_NC])
        variances.append(table.var_NC[table.mask_NC])
        g = ideal_gradient(table.prob_NC, table.value_NC, table.mask_NC)
        norm2 = (g**2).sum(axis=1) - noise_trace(table.prob_NC, table.var_NC, table.mask_NC)
        weight = 1 / table.inclusion_prob_N
        dots = [g[n, : len(m)] @ m for n, m in enumerate(method)]
        sums.append([weight @ dots, weight @ norm2])
        first, second = (
            ideal_gradient(table.prob_NC, half, table.mask_NC) for half in table.half_value_HNC
        )
        halves.append((first * second).sum())
    return map(np.array, (values, variances, sums, halves))


def _exact_sums(world):
    _, _, plans, truth, method = world
    g = [ideal_gradient(plan.prob_C, v) for plan, v in zip(plans, truth, strict=True)]
    weight = [1 / plan.inclusion_prob for plan in plans]
    dot = sum(w * (a @ m) for w, a, m in zip(weight, g, method, strict=True))
    return dot, sum(w * (a @ a) for w, a in zip(weight, g, strict=True)), sum(a @ a for a in g)


def _largest_z(samples, truth):
    spread = samples.std(axis=0) / np.sqrt(len(samples))
    error = samples.mean(axis=0) - truth
    return np.max(abs(error) / np.maximum(spread, 1e-9))


@pytest.mark.parametrize("name", VARIANTS)
def test_values_variances_norms_and_dots_are_unbiased(world, name):
    values, variances, sums, halves = _repeat(world, VARIANTS[name])
    dot, norm2, plain_norm2 = _exact_sums(world)
    assert _largest_z(values, np.concatenate(world[3])) < 4.2
    assert _largest_z(sums, np.array([dot, norm2])) < 3.5
    assert _largest_z(halves, np.array(plain_norm2)) < 3.5
    noisy = values.var(axis=0) > 1e-6
    ratio = variances.mean(axis=0)[noisy] / values.var(axis=0)[noisy]
    assert 0.93 < np.median(ratio) < 1.07
    assert ratio.min() > 0.6
    assert ratio.max() < 1.5


def test_each_part_lowers_the_noise_at_equal_continuations(world):
    spread = {}
    for name, options in VARIANTS.items():
        values, _, _, _ = _repeat(world, options, repeats=150, seed=1)
        spread[name] = ((values - np.concatenate(world[3])) ** 2).mean()
    assert spread["reuse"] < 0.9 * spread["uniform"]
    assert spread["backup"] < 0.8 * spread["reuse"]


def test_reuse_chosen_by_outcome_would_be_caught(world, monkeypatch):
    follow = Router.follow

    def choosy(self, continuations, first):
        passes = follow(self, continuations, first)
        reward = np.array([stored.reward for stored in continuations])
        keep = (passes.offset == 0) | (reward[passes.continuation - first] > 0)
        return Passes(*(getattr(passes, field.name)[keep] for field in fields(Passes)))

    monkeypatch.setattr(Router, "follow", choosy)
    values, *_ = _repeat(world, VARIANTS["reuse"], repeats=REPEATS)
    assert _largest_z(values, np.concatenate(world[3])) > 8


def test_a_spines_own_reward_would_bias_the_split_by_correctness_and_anothers_would_not():
    """Why spines count nowhere: at their own nodes it selects by outcome."""
    language = Language(seed=9, vocab=3, depth=5)
    rng = np.random.default_rng(4)
    own, other, none = [], [], []
    for _ in range(3000):
        spine, second = language.sample((), 2, rng)
        if language.value[spine] < 1:
            continue
        prefix, token = (), spine[0]
        v = language.value[(token,)]
        draws = [language.value[x] for x in language.sample((token,), 2, rng)]
        none.append(np.mean(draws) - v)
        own.append(np.mean([*draws, 1.0]) - v)
        passes = second[: len(prefix) + 1] == (token,)
        other.append(np.mean([*draws, language.value[second]] if passes else draws) - v)
    assert abs(np.mean(none)) < 4 * np.std(none) / np.sqrt(len(none))
    assert abs(np.mean(other)) < 4 * np.std(other) / np.sqrt(len(other))
    assert np.mean(own) > 10 * np.std(own) / np.sqrt(len(own))


def test_values_are_consistent_along_a_spine(world):
    language, spines, _, _, _ = world
    spine = spines[0]
    plans = [language.plan(0, spine[:t], language.vocab) for t in range(len(spine))]
    branching = QuestionBranching([spine], plans, per_candidate=3, allocation="uniform",
                                  stop_ids={STOP})  # fmt: skip
    table = drive(branching, language, np.random.default_rng(5)).estimates()
    for t in range(len(spine) - 1):
        chosen = table.token_ids_NC[t].tolist().index(spine[t])
        below = table.prob_NC[t + 1] @ table.value_NC[t + 1]
        assert table.value_NC[t, chosen] == pytest.approx(below)
        below_var = table.prob_NC[t + 1] ** 2 @ table.var_NC[t + 1]
        assert table.var_NC[t, chosen] == pytest.approx(below_var)
