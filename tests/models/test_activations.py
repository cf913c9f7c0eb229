"""Checkpoints at layers: the same gradients, from less that is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.models.activations import checkpoints, kept_bytes_per_token
from gradalign.models.distributions import ForcedSequence
from gradalign.models.gradients import ForcedResponses, LogitGradients, Push
from gradalign.models.weight_space import parse_space, weight_space
from tests.models.architectures import make

SEQUENCES = [ForcedSequence((5, 6, 7), (8, 9, 10, 11)), ForcedSequence((5, 6, 7), (12, 13))]
POSITIONS = [(0, 2, 3), (1,)]


def gradients(model, parameters):
    """Of two directions, from one graph."""
    own = LogitGradients(ForcedResponses(model, SEQUENCES, POSITIONS), parameters)
    pushes = [
        Push(0, 2, np.array([4, 5]), np.array([1.0, -1.0])),
        Push(1, 1, np.array([6, 9]), np.array([0.5, -0.5])),
    ]
    return [*own.along(pushes), *own.along(pushes[:1])]


@pytest.mark.parametrize(
    ("name", "space"),
    [("gpt2", "all"), ("gemma3", "all"), ("gemma3", "lora:rank=2"), ("bamba", "all")],
)
def test_gradients_are_the_same_and_less_is_kept(name, space):
    model = make(name)
    with weight_space(model, parse_space(space)) as parameters:
        wanted, before = gradients(model, parameters), kept_bytes_per_token(model)
        with checkpoints(model):
            found, after = gradients(model, parameters), kept_bytes_per_token(model)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other)
        assert after < before / 4
        # Afterwards the model is as it was.
        assert kept_bytes_per_token(model) == before


def test_what_is_kept_is_counted_without_the_weights():
    """Of one linear layer under a square: its input, its output, and nothing else."""

    class Square(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = make("gpt2").config
            self.table = torch.nn.Embedding(48, 8)
            self.layer = torch.nn.Linear(8, 16)

        def get_input_embeddings(self):
            return self.table

        def forward(self, input_ids, use_cache=False):
            return type("Output", (), {"logits": self.layer(self.table(input_ids)).square()})

    floats = 8 + 16  # and an index of the token, in 8 bytes
    assert kept_bytes_per_token(Square()) == floats * 4 + 8
