"""The whole estimator on many questions: unbiased sums, split by correctness, and intervals."""

import numpy as np
import pytest
from language import STOP, Language, drive

from gradalign.alignment import cluster_bootstrap, pooled_of_sums
from gradalign.alignment.ideal import ideal_gradient, noise_trace
from gradalign.branching import QuestionBranching, choose_nodes

LANGUAGES, REPLICATIONS, QUESTIONS, SPINES, NODES = 150, 240, 20, 2, 3


def _direction(p, q):
    ratio = np.log(q / p)
    return p * (ratio - p @ ratio)


def _products(p, v, var, q):
    g, m = ideal_gradient(p, v), _direction(p, q)
    return np.array([g @ m, g @ g - float(noise_trace(p, var)), m @ m])


def _exact(language):
    """Expected sums over all positions of a question's spines; of all, and of correct ones."""
    every, correct, reach = np.zeros(3), np.zeros(3), {(): 1.0}
    for prefix, p in sorted(language.prob.items(), key=lambda item: len(item[0])):
        v = np.array([language.value[(*prefix, token)] for token in range(language.vocab)])
        sums = _products(p, v, np.zeros_like(v), language.teacher[prefix])
        every += reach[prefix] * sums
        correct += reach[prefix] * language.value[prefix] * sums
        for token, prob in enumerate(p):
            reach[(*prefix, token)] = reach[prefix] * prob
    return SPINES * every, SPINES * correct


def _estimate(language, rng):
    """One question's sums from a few nodes and continuations; of all, and of correct spines."""
    spines = language.sample((), SPINES, rng)
    plans, prefixes = [], []
    for number, spine in enumerate(spines):
        p_TV = np.array([language.prob[spine[:t]] for t in range(len(spine))])
        entropy = -(p_TV * np.log(p_TV)).sum(axis=1)
        chosen, prob = choose_nodes(entropy, NODES, "entropy", rng)
        for position, inclusion in zip(chosen.tolist(), prob.tolist(), strict=True):
            prefixes.append(spine[:position])
            plans.append(language.plan(number, prefixes[-1], language.vocab, inclusion))
    branching = QuestionBranching(spines, plans, budget=40, stop_ids={STOP})
    table = drive(branching, language, rng).estimates()
    every, correct = np.zeros(3), np.zeros(3)
    for n, (plan, prefix) in enumerate(zip(plans, prefixes, strict=True)):
        p, q = table.prob_NC[n], language.teacher[prefix]
        sums = _products(p, table.value_NC[n], table.var_NC[n], q) / plan.inclusion_prob
        every += sums
        correct += language.value[spines[plan.spine]] * sums
    return every, correct


@pytest.mark.slow
def test_sums_are_unbiased_and_intervals_cover_with_twenty_questions():
    languages = [
        Language(seed=100 + number, vocab=3, depth=5, peak=1.0) for number in range(LANGUAGES)
    ]
    exact = np.array([_exact(language) for language in languages])
    truth = pooled_of_sums(exact.mean(axis=0))
    rng = np.random.default_rng(0)
    covered, errors = [], []
    for replication in range(REPLICATIONS):
        picked = rng.integers(0, LANGUAGES, QUESTIONS)
        sums = np.array([_estimate(languages[number], rng) for number in picked])
        errors.append((sums - exact[picked]).mean(axis=0))
        covered.append([])
        for split in (0, 1):
            interval = cluster_bootstrap(
                sums[:, split], pooled_of_sums, seed=replication, num_resamples=2000
            )
            covered[-1].append(interval.low <= truth[split] <= interval.high)
    z = np.mean(errors, axis=0) / (np.std(errors, axis=0) / np.sqrt(REPLICATIONS))
    assert abs(z).max() < 3.5, z
    share = np.mean(covered, axis=0)
    assert (share >= 0.92).all(), share
    assert (share <= 0.98).all(), share
