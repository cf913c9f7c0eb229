"""What a server says of a padded model, cut to its tokens, against the distribution cut exactly."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.engines.requests import ModelLimits
from gradalign.engines.server.cut import HIDDEN_MASS, bans, cut, hidden_mass
from gradalign.engines.server.distributions import (
    AskedSequence,
    served_offshoot_logprobs,
    served_readings,
)
from gradalign.errors import EngineError, UsageError
from gradalign.models.continuations import Offshoot
from gradalign.models.distributions import ForcedSequence

VOCAB, TOKENS = 40, 32
OUTSIDE = frozenset(range(TOKENS, VOCAB))


class Answers:
    """Answers as a vLLM server does for a model whose logits are a function of the position.

    Args:
        bias: added to the logits of rows that stand for no token.
        knows_ids: whether it knows `logprob_token_ids`.
    """

    def __init__(self, bias: float, *, knows_ids: bool = True) -> None:
        logits_TV = np.random.default_rng(4).normal(0, 2, (30, VOCAB))
        logits_TV[:, TOKENS:] += bias
        norm_T1 = np.logaddexp.reduce(logits_TV, axis=1, keepdims=True)
        self.log_q_TV = logits_TV - norm_T1
        inside_TV = logits_TV[:, :TOKENS]
        self.cut_TV = inside_TV - np.logaddexp.reduce(inside_TV, axis=1, keepdims=True)
        self.limits = ModelLimits(vocab_size=VOCAB, max_model_len=1000)
        self.server_len = 1000
        self.outside = OUTSIDE
        self.knows_ids = knows_ids

    def ask(self, bodies):
        for number, body in enumerate(bodies):
            yield number, self._answer(body)

    def _answer(self, body):
        ids = body["prompt"]
        if "prompt_logprobs" not in body:
            asked = body["logprob_token_ids"] if self.knows_ids else [3]
            log_q_V = self.log_q_TV[len(ids)]
            return {"logprobs": {"top_logprobs": [{f"token_id:{t}": log_q_V[t] for t in asked}]}}
        rows = [None]
        for t in range(1, len(ids)):
            log_q_V = self.log_q_TV[t]
            told = {*np.argsort(-log_q_V)[: body["prompt_logprobs"]].tolist(), ids[t]}
            rows.append({str(token): {"logprob": log_q_V[token]} for token in told})
        return {"prompt_logprobs": rows}

    def logprobs(self, sequences, starts):
        return [
            np.array([self.log_q_TV[t][ids[t]] for t in range(start, len(ids))], np.float32)
            for ids, start in zip(sequences, starts, strict=True)
        ]


PROMPT, RESPONSE = [1, 2, 3], [4, 5, 6, 7, 8]


def read(engine, num_top):
    asked = AskedSequence(
        ForcedSequence(PROMPT, RESPONSE),
        np.array([1, 3]),
        [np.array([9, 10, 11], np.int32), np.array([12], np.int32)],
    )
    ((_, reading),) = served_readings(engine, [asked], num_view=4, num_top=num_top)
    return reading


@pytest.mark.parametrize("bias", [-30.0, -12.0])
def test_nodes_are_cut_exactly_and_other_positions_within_the_stated_mass(bias):
    engine = Answers(bias)
    reading = read(engine, 12)
    exact_LV = engine.cut_TV[len(PROMPT) : len(PROMPT) + len(RESPONSE)]
    for n, position in enumerate((1, 3)):
        union = reading.unions[n]
        assert (union < TOKENS).all()
        np.testing.assert_allclose(reading.at.logprobs[n], exact_LV[position][union], atol=1e-5)
        rest = np.setdiff1d(np.arange(TOKENS), union)
        tail = np.logaddexp.reduce(exact_LV[position][rest])
        assert reading.at.log_tail_N[n] == pytest.approx(tail, abs=1e-3)
    own_L = exact_LV[np.arange(len(RESPONSE)), RESPONSE]
    np.testing.assert_allclose(reading.view.logprob_L, own_L, atol=HIDDEN_MASS)
    assert (reading.view.top_ids_LW < TOKENS).all()


def test_what_the_top_tokens_show_is_cut_at_every_position():
    """However much mass the rows have, as long as all of it is seen."""
    engine = Answers(2.0)
    reading = read(engine, VOCAB)
    exact_LV = engine.cut_TV[len(PROMPT) : len(PROMPT) + len(RESPONSE)]
    own_L = exact_LV[np.arange(len(RESPONSE)), RESPONSE]
    np.testing.assert_allclose(reading.view.logprob_L, own_L, atol=1e-5)
    entropy_L = -(np.exp(exact_LV) * exact_LV).sum(axis=1)
    np.testing.assert_allclose(reading.view.entropy_L, entropy_L, atol=1e-4)
    np.testing.assert_array_equal(
        reading.view.top_ids_LW, np.argsort(-exact_LV, axis=1)[:, :4].astype(np.int32)
    )


def test_a_server_that_hides_mass_is_refused():
    with pytest.raises(EngineError, match="stand for no token"):
        read(Answers(-2.0), 12)
    with pytest.raises(EngineError, match="stand for no token"):
        read(Answers(-12.0, knows_ids=False), 12)


def test_scores_of_continuations_are_refused_where_they_would_be_off():
    offshoots = [Offshoot(5, [4, 5, 6]), Offshoot(4, [7])]
    engine = Answers(-30.0)
    scores = served_offshoot_logprobs(engine, [*PROMPT, *RESPONSE], offshoots)
    np.testing.assert_allclose(
        scores[0], [engine.cut_TV[6][5], engine.cut_TV[7][6]], atol=HIDDEN_MASS
    )
    with pytest.raises(EngineError, match="stand for no token"):
        served_offshoot_logprobs(Answers(0.0), [*PROMPT, *RESPONSE], offshoots)
    with pytest.raises(EngineError, match="logprob_token_ids"):
        served_offshoot_logprobs(Answers(-30.0, knows_ids=False), [*PROMPT, *RESPONSE], offshoots)


def test_a_row_is_renormalised():
    row = {1: np.log(0.5), 2: np.log(0.25), 35: np.log(0.25)}
    found = cut(row, OUTSIDE)
    assert found.keys() == {1, 2}
    np.testing.assert_allclose(np.exp(list(found.values())), [2 / 3, 1 / 3])
    assert cut({1: -0.5}, OUTSIDE) == {1: -0.5}


def test_hidden_mass_is_measured_or_bounded():
    top = {1: np.log(0.6), 2: np.log(0.2), 3: np.log(0.1), 20: np.log(1e-9)}
    filled = top | {token: np.log(1e-3) for token in OUTSIDE}
    assert hidden_mass(top, filled, OUTSIDE, 3) == pytest.approx(len(OUTSIDE) * 1e-3)
    # None was told: all of them together have what is left, here less than the third has.
    assert hidden_mass(top, top, OUTSIDE, 3) == pytest.approx(0.1)
    assert hidden_mass(top | {35: -9.0}, top | {35: -9.0}, {35}, 3) == 0.0


def test_draws_are_kept_from_ids_by_a_bias():
    assert bans(frozenset()) == {}
    assert bans({40, 41})["logit_bias"] == {"40": -100.0, "41": -100.0}
    with pytest.raises(UsageError, match="too many"):
        bans(range(10_000))
