"""Every architecture says the same of a sequence alone and together with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gradalign.engines import Request, SamplingSettings
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.engines.transformers.sampler import uniforms
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from tests.models.architectures import ARCHITECTURES, VOCAB, make

READABLE = [*ARCHITECTURES, "mamba", "recurrent_gemma", "rwkv", "xglm"]


def own_log_probs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """What the model says behind each token of one sequence, called in the plainest way."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([list(ids)])).logits[0].double(), -1)


def drawn(rng: np.random.Generator, length: int) -> list[int]:
    return rng.integers(3, VOCAB, length).tolist()


@pytest.fixture(scope="module", params=READABLE)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def test_four_prompts_in_one_forced_pass(model: Any) -> None:
    rng = np.random.default_rng(0)
    sequences = [
        ForcedSequence(drawn(rng, prompt), drawn(rng, response))
        for prompt, response in ((1, 4), (5, 9), (17, 6), (3, 2))
    ]
    found = dict(forced_log_probs(model, sequences))
    for i, sequence in enumerate(sequences):
        own = own_log_probs(model, [*sequence.prompt_ids, *sequence.response_ids])
        wanted = own[len(sequence.prompt_ids) - 1 : -1]
        np.testing.assert_allclose(found[i], wanted, atol=2e-4)
        ((_, alone),) = forced_log_probs(model, [sequence])
        np.testing.assert_allclose(alone, wanted, atol=2e-4)


def test_continuations_that_leave_a_trunk(model: Any) -> None:
    rng = np.random.default_rng(1)
    trunk = drawn(rng, 22)
    offshoots = [
        Offshoot(start, drawn(rng, length)) for start, length in ((1, 3), (9, 13), (22, 4), (14, 2))
    ]
    for item, scores in zip(offshoots, offshoot_logprobs(model, trunk, offshoots), strict=True):
        own = own_log_probs(model, [*trunk[: item.start], *item.token_ids])[item.start : -1]
        wanted = own.gather(1, torch.tensor(item.token_ids[1:])[:, None])[:, 0]
        np.testing.assert_allclose(scores, wanted, atol=2e-4)


def test_samples_together_and_alone(model: Any) -> None:
    rng = np.random.default_rng(2)
    requests = [
        Request(tuple(prompt), 4, int(rng.integers(2**63)))
        for prompt in (drawn(rng, length) for length in (2, 13, 5, 7))
        for _ in range(6)
    ]
    with TransformersEngine(model, sampling=SamplingSettings(), max_model_len=64) as engine:
        together = dict(engine.generate(requests))
        for index in (0, 6, 23):
            ((_, alone),) = engine.generate([requests[index]])
            assert alone.token_ids.tolist() == together[index].token_ids.tolist()
        scored = engine.logprobs([requests[0].prompt_ids, requests[6].prompt_ids], [1, 1])
    for index, request in enumerate(requests):
        tokens = together[index].token_ids.tolist()
        own = own_log_probs(model, [*request.prompt_ids, *tokens])[len(request.prompt_ids) - 1 :]
        cdf_TV = own[:-1].exp().cumsum(-1)
        u_T = uniforms(np.full(4, request.seed, np.uint64), np.arange(4))
        wanted = [int((cdf <= u * cdf[-1]).sum()) for cdf, u in zip(cdf_TV, u_T, strict=True)]
        assert tokens == wanted
    for index, found in zip((0, 6), scored, strict=True):
        ids = requests[index].prompt_ids
        own = own_log_probs(model, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        np.testing.assert_allclose(found, own, atol=2e-4)
