"""Rotary frequencies that change with the longest sequence of a batch bound a model's context."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gradalign.engines import Request
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.errors import ContextOverflowError
from gradalign.models import context_length
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.models.frequencies import length_note, served_otherwise, steady_length
from tests.models.architectures import VOCAB, long_rope_config, make_from

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


def llama(**rope: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        rope_parameters=rope,
    )


def old(**settings: Any) -> Any:
    """A configuration that comes with a checkpoint's own code."""
    config = SimpleNamespace(text_config=None, **settings)
    config.get_text_config = lambda decoder=False: config
    return config


@pytest.mark.parametrize(
    ("config", "steady", "context"),
    [
        (long_rope_config(original=20), (20, "longrope"), 20),
        (llama(**DYNAMIC), (24, "dynamic"), 24),
        (llama(rope_type="default", rope_theta=10000.0), None, 24),
        (
            old(
                max_position_embeddings=131072,
                original_max_position_embeddings=4096,
                rope_scaling={"type": "su", "short_factor": [1.0], "long_factor": [2.0]},
            ),
            (4096, "su"),
            4096,
        ),
        (
            old(
                max_position_embeddings=8192,
                rope_parameters={
                    "sliding_attention": {"rope_type": "default"},
                    "full_attention": {
                        "rope_type": "longrope",
                        "original_max_position_embeddings": 1024,
                        "short_factor": [1.0],
                        "long_factor": [3.0],
                    },
                },
            ),
            (1024, "longrope"),
            1024,
        ),
        (
            old(
                max_position_embeddings=8192,
                rope_scaling={
                    "type": "longrope",
                    "original_max_position_embeddings": 1024,
                    "short_factor": [1.0],
                    "long_factor": [1.0],
                },
            ),
            None,
            8192,
        ),
        (
            old(max_position_embeddings=32768, use_dynamic_ntk=True, seq_length=2048),
            (2048, "dynamic"),
            2048,
        ),
        (
            old(
                max_position_embeddings=8192,
                rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": 1024},
            ),
            None,
            8192,
        ),
        (SimpleNamespace(text_config=long_rope_config(original=20)), (20, "longrope"), 20),
        (SimpleNamespace(max_position_embeddings=-1), None, None),
    ],
)
def test_the_length_up_to_which_frequencies_stay(
    config: Any, steady: tuple[int, str] | None, context: int | None
) -> None:
    assert steady_length(config) == steady
    assert context_length(config) == context
    told = "frequencies depend on the longest sequence of a batch" in length_note(config)
    full = getattr(getattr(config, "text_config", None) or config, "max_position_embeddings", None)
    assert told == (steady is not None and full > steady[0])


def test_only_a_server_with_a_longer_context_has_other_frequencies() -> None:
    config = long_rope_config(original=20)
    assert not served_otherwise(config, 20)
    assert not served_otherwise(config, None)
    assert served_otherwise(config, 21)
    assert not served_otherwise(llama(**DYNAMIC), 96)


@pytest.mark.parametrize("config", [long_rope_config(original=20), llama(**DYNAMIC)])
def test_below_the_switch_a_sequence_has_numbers_of_its_own(config: Any) -> None:
    model, limit = make_from(config), context_length(config)
    assert limit is not None
    rng = np.random.default_rng(0)
    trunk = rng.integers(3, VOCAB, limit - 2).tolist()
    sequences = [
        ForcedSequence(trunk[:3], trunk[3:8]),
        ForcedSequence(trunk[:-4], [*trunk[-4:], 7, 8]),
    ]
    found = dict(forced_log_probs(model, sequences))
    offshoots = [Offshoot(2, [5, 6, 7]), Offshoot(len(trunk), [8, 9])]
    scores = offshoot_logprobs(model, trunk, offshoots)

    def own(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)

    np.testing.assert_allclose(found[0], own(trunk[:8])[2:-1], atol=1e-4)
    np.testing.assert_allclose(found[1], own([*trunk, 7, 8])[len(trunk) - 5 : -1], atol=1e-4)
    np.testing.assert_allclose(
        scores[0], [own([*trunk[:2], 5, 6, 7])[t, id] for t, id in ((2, 6), (3, 7))], atol=1e-4
    )
    np.testing.assert_allclose(scores[1], [own([*trunk, 8, 9])[len(trunk), 9]], atol=1e-4)
    with TransformersEngine(model) as engine:
        requests = [Request(tuple(trunk[:3]), 6, 1), Request(tuple(trunk[:-4]), 6, 2)]
        together = {i: c.token_ids.tolist() for i, c in engine.generate(requests)}
        ((_, alone),) = engine.generate(requests[:1])
        assert together[0] == alone.token_ids.tolist()


@pytest.mark.parametrize("config", [long_rope_config(original=20), llama(**DYNAMIC)])
def test_beyond_the_switch_nothing_is_read_or_sampled(config: Any) -> None:
    model = make_from(config)
    limit = context_length(config)
    with pytest.raises(ContextOverflowError, match=f"context of {limit}"):
        list(forced_log_probs(model, [ForcedSequence([5], [6]), ForcedSequence([5] * limit, [6])]))
    with TransformersEngine(model) as engine, pytest.raises(ContextOverflowError):
        list(engine.generate([Request((5,) * 10, limit, 0)]))
