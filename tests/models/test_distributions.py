"""Teacher-forced passes against a plain forward pass of one sequence at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.errors import ContextOverflowError, EngineError
from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import (
    ForcedSequence,
    at_tokens,
    forced_log_probs,
    position_view,
    response_distribution,
    top_tokens,
)
from gradalign.models.sampling import SamplingSettings

SETTINGS = [None, SamplingSettings(temperature=0.7, top_k=20, top_p=0.9)]


@pytest.fixture(scope="module")
def student():
    with loaded_model("demo:student") as model:
        yield model


def plain(model, ids, first):
    """Log-probabilities of what follows each token from `first` on, one sequence alone."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0, first:].float()


def random_sequences(rng, count):
    return [
        ForcedSequence(
            rng.integers(3, 100, rng.integers(1, 9)).tolist(),
            rng.integers(3, 100, rng.integers(1, 20)).tolist(),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_batches_of_unequal_lengths_equal_single_passes(student, sampling):
    sequences = random_sequences(np.random.default_rng(0), 25)
    seen = set()
    for i, found in forced_log_probs(student, sequences, batch_tokens=150, sampling=sampling):
        sequence = sequences[i]
        logits = plain(
            student,
            [*sequence.prompt_ids, *sequence.response_ids],
            len(sequence.prompt_ids) - 1,
        )[:-1]
        wanted = response_distribution(logits, sampling)
        assert found.shape == wanted.shape
        finite = torch.isfinite(wanted)
        assert torch.equal(finite, torch.isfinite(found))
        assert (found - wanted)[finite].abs().max() < 1e-4
        seen.add(i)
    assert seen == set(range(25))


@pytest.mark.parametrize("sampling", SETTINGS)
def test_continuations_of_one_trunk_equal_single_passes(student, sampling):
    rng = np.random.default_rng(1)
    trunk = rng.integers(3, 100, 30).tolist()
    offshoots = [
        Offshoot(int(rng.integers(1, 31)), rng.integers(3, 100, rng.integers(1, 12)).tolist())
        for _ in range(40)
    ]
    found = offshoot_logprobs(student, trunk, offshoots, batch_tokens=60, sampling=sampling)
    for item, scores in zip(offshoots, found, strict=True):
        ids = [*trunk[: item.start], *item.token_ids]
        distribution = response_distribution(plain(student, ids, item.start)[:-1], sampling)
        wanted = distribution.gather(1, torch.tensor(item.token_ids[1:])[:, None].long())[:, 0]
        assert scores.shape == (len(item.token_ids) - 1,)
        np.testing.assert_allclose(scores, wanted.numpy(), atol=1e-4)


def test_continuations_without_a_copyable_cache_are_the_same(student, monkeypatch):
    rng = np.random.default_rng(2)
    trunk = rng.integers(3, 100, 12).tolist()
    offshoots = [Offshoot(int(rng.integers(1, 12)), [5, 6, 7, 8]) for _ in range(4)]
    by_cache = offshoot_logprobs(student, trunk, offshoots)
    monkeypatch.setattr("gradalign.models.continuations._copies_columns", lambda model: False)
    for one, other in zip(offshoot_logprobs(student, trunk, offshoots), by_cache, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_views_agree_with_the_dense_distribution(student):
    sequence = random_sequences(np.random.default_rng(3), 1)[0]
    ((_, log_probs),) = forced_log_probs(student, [sequence])
    dense = log_probs.double().numpy()
    view = position_view(log_probs, sequence.response_ids, 16)
    rows = np.arange(len(sequence.response_ids))
    np.testing.assert_allclose(view.logprob_L, dense[rows, sequence.response_ids], atol=1e-6)
    np.testing.assert_allclose(view.entropy_L, -(np.exp(dense) * dense).sum(1), atol=1e-5)
    np.testing.assert_allclose(view.top_logprobs_LW, -np.sort(-dense, axis=1)[:, :16], atol=1e-6)
    np.testing.assert_array_equal(
        np.take_along_axis(dense, view.top_ids_LW.astype(int), 1).astype(np.float32),
        view.top_logprobs_LW,
    )
    positions = np.array([0, len(rows) - 1])
    ids, logprobs = top_tokens(log_probs, positions, 7)
    np.testing.assert_allclose(logprobs, -np.sort(-dense[positions], axis=1)[:, :7], atol=1e-6)
    asked = [ids[0], ids[1][:3]]
    at = at_tokens(log_probs, positions, asked, temperatures=[1.7])
    for n, position in enumerate(positions):
        rest = np.delete(np.exp(dense[position]), asked[n])
        np.testing.assert_allclose(at.logprobs[n], dense[position, asked[n]], atol=1e-6)
        np.testing.assert_allclose(np.exp(at.log_tail_N[n]), rest.sum(), rtol=1e-5)
        np.testing.assert_allclose(
            np.exp(at.tail_powers[1.7][n]), (rest ** (1 / 1.7)).sum(), rtol=1e-5
        )


def test_tokens_beyond_a_smaller_vocabulary_have_no_probability():
    log_probs = torch.log_softmax(torch.randn(3, 5), dim=-1)
    asked = [np.array([1, 4, 7]), np.array([0, 900])]
    at = at_tokens(log_probs, np.array([0, 2]), asked, temperatures=[2.0])
    np.testing.assert_allclose(at.logprobs[0][:2], log_probs[0, [1, 4]], atol=1e-6)
    assert at.logprobs[0][2] == -np.inf
    assert at.logprobs[1][1] == -np.inf
    rest = np.exp(log_probs[0, [0, 2, 3]].double().numpy())
    assert np.exp(at.log_tail_N[0]) == pytest.approx(rest.sum(), rel=1e-6)
    assert np.exp(at.tail_powers[2.0][0]) == pytest.approx(np.sqrt(rest).sum(), rel=1e-6)


def test_a_sequence_longer_than_the_context_is_refused(student):
    long = ForcedSequence([5] * 10, [5] * student.config.max_position_embeddings)
    with pytest.raises(ContextOverflowError, match="exceed the model's context"):
        next(forced_log_probs(student, [long]))


def test_an_unknown_token_id_is_refused(student):
    with pytest.raises(EngineError, match="the model has"):
        next(forced_log_probs(student, [ForcedSequence([5], [10**6])]))
