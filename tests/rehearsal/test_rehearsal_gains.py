"""What a moved student gains, against every response that there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gradalign.rehearsal.gains import CLIP, prefix_ratios, response_gain, token_gains

VOCAB, LENGTH = 4, 3


class Language:
    """Every response of three tokens, under two students, with a reward of each."""

    def __init__(self, seed, size=0.6):
        rng = np.random.default_rng(seed)
        self.logits = {}
        for length in range(LENGTH):
            for prefix in itertools.product(range(VOCAB), repeat=length):
                old = rng.normal(0, 1, VOCAB)
                self.logits[prefix] = old, old + rng.normal(0, size, VOCAB)
        self.reward = {
            response: float(rng.random() < 0.4)
            for response in itertools.product(range(VOCAB), repeat=LENGTH)
        }

    def probs(self, prefix):
        return [np.exp(z) / np.exp(z).sum() for z in self.logits[prefix]]

    def value(self, prefix, student=0):
        if len(prefix) == LENGTH:
            return self.reward[prefix]
        probs = self.probs(prefix)[student]
        return sum(p * self.value((*prefix, j), student) for j, p in enumerate(probs))

    def responses(self):
        for response in self.reward:
            old, new = (
                math.prod(self.probs(response[:t])[student][response[t]] for t in range(LENGTH))
                for student in (0, 1)
            )
            yield response, old, new


def told(language, response, chosen):
    """What a response says, with values of the chosen candidates and of its own tokens."""
    rows = [language.probs(response[:t]) for t in range(LENGTH)]
    old_NC, new_NC = (np.array([row[student] for row in rows]) for student in (0, 1))
    value_NC = np.full((LENGTH, VOCAB), np.nan)
    known_NC = np.zeros((LENGTH, VOCAB), dtype=bool)
    chosen_NC = np.zeros((LENGTH, VOCAB), dtype=bool)
    for t in range(LENGTH):
        chosen_NC[t, list(chosen)] = True
        for token in {*chosen, response[t]}:
            known_NC[t, token] = True
            value_NC[t, token] = language.value((*response[:t], token))
    gain_N, outside_N = token_gains(old_NC, new_NC, value_NC, known_NC, chosen_NC)
    at = np.arange(LENGTH)
    old_L, new_L = (np.log(p[at, list(response)]) for p in (old_NC, new_NC))
    return response_gain(old_L, new_L, prefix_ratios(old_L, new_L, at), gain_N, outside_N)


@pytest.mark.parametrize("chosen", [(0, 1, 2, 3), (0, 1), (2,), ()])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_over_all_responses_is_the_change_of_success(seed, chosen):
    language = Language(seed)
    mean = sum(old * told(language, y, chosen).gain for y, old, _ in language.responses())
    truth = language.value((), 1) - language.value((), 0)
    assert abs(truth) > 0.005
    assert mean == pytest.approx(truth, abs=1e-12)


def test_divergence_and_ratio_are_those_of_whole_responses():
    language = Language(2)
    found = {y: told(language, y, (0, 1)) for y in language.reward}
    divergence = sum(old * math.log(old / new) for _, old, new in language.responses())
    mean = sum(old * found[y].divergence for y, old, _ in language.responses())
    assert mean == pytest.approx(divergence, abs=1e-12)
    for response, old, new in language.responses():
        assert found[response].ratio == pytest.approx(new / old, rel=1e-12)


def test_mass_that_leaves_the_candidates_is_seen():
    old_NC, new_NC = np.array([[0.7, 0.3]]), np.array([[0.4, 0.2]])
    known_NC = np.ones((1, 2), dtype=bool)
    _, outside_N = token_gains(old_NC, new_NC, np.array([[1.0, 0.0]]), known_NC, known_NC)
    assert outside_N == pytest.approx([0.4])
    gained = response_gain(np.zeros(1), np.zeros(1), np.ones(1), np.zeros(1), -outside_N)
    assert gained.outside == 0.0  # mass that comes back is no blind spot


def test_a_student_that_stays_gains_nothing():
    language = Language(3, size=0.0)
    for response in language.reward:
        found = told(language, response, (0, 1))
        assert (found.gain, found.divergence, found.ratio) == pytest.approx((0.0, 0.0, 1.0))


def test_ratios_are_of_what_comes_before_and_clipped():
    old_L, new_L = np.log([0.5, 0.001, 0.5]), np.log([0.25, 0.9, 0.5])
    ratios = prefix_ratios(old_L, new_L, np.array([0, 1, 2]))
    assert ratios == pytest.approx([1.0, 0.5, CLIP])
