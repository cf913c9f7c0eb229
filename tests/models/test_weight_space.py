"""Spaces of weights, sketches of gradients in them, and gradients along directions on logits."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from gradalign.errors import UsageError
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence
from gradalign.models.gradients import ForcedResponses, LogitGradients, Push
from gradalign.models.weight_space import Sketch, SpaceSpec, parse_space, weight_space
from gradalign.runtime import model_seconds

SEQUENCES = [ForcedSequence((5, 6, 7), (8, 9, 10, 11)), ForcedSequence((5, 6, 7), (12, 13))]
POSITIONS = [(0, 2, 3), (1,)]


@pytest.fixture(scope="module")
def model():
    with loaded_model("demo:student", device="cpu", dtype="float32") as loaded:
        yield loaded


def pushes(seed):
    rng = np.random.default_rng(seed)
    return [
        Push(number, position, rng.choice(259, 5, replace=False), rng.normal(size=5))
        for number, own in enumerate(POSITIONS)
        for position in own
    ]


def plain_sum(model, pushed):
    """The function whose gradient is asked for, a response at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for number, sequence in enumerate(SEQUENCES):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]])
        logits = model(input_ids=ids).logits[0].double()
        for push in pushed:
            if push.response == number:
                row_V = logits[len(sequence.prompt_ids) + push.position - 1]
                picked_T = row_V[torch.from_numpy(push.token_ids)]
                total = total + picked_T @ torch.from_numpy(push.values)
    return total


@pytest.mark.parametrize("batch_tokens", [16384, 8], ids=["one batch", "a row each"])
def test_gradients_are_those_of_the_sum_over_positions(model, batch_tokens):
    with weight_space(model, SpaceSpec("all")) as parameters:
        responses = ForcedResponses(model, SEQUENCES, POSITIONS, batch_tokens=batch_tokens)
        gradients = LogitGradients(responses, parameters)
        for seed in (1, 2):  # a kept graph serves any number of directions
            pushed = pushes(seed)
            expected = torch.autograd.grad(plain_sum(model, pushed), parameters)
            for found, want in zip(gradients.along(pushed), expected, strict=True):
                torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_time_in_models_counts_a_pass_back(model):
    """Also where the graph is there already: no forward pass is made then."""
    with weight_space(model, SpaceSpec("all")) as parameters:
        gradients = LogitGradients(ForcedResponses(model, SEQUENCES, POSITIONS), parameters)
        gradients.along(pushes(1))
        before, began = model_seconds(), time.perf_counter()
        gradients.along(pushes(2))
        assert 0 < model_seconds() - before <= time.perf_counter() - began


def test_a_step_along_it_moves_the_logits_as_it_says(model):
    """The derivative by finite differences, in float64."""
    double = model.double()
    try:
        with weight_space(double, SpaceSpec("all")) as parameters:
            pushed = pushes(3)
            gradients = LogitGradients(ForcedResponses(double, SEQUENCES, POSITIONS), parameters)
            direction = gradients.along(pushes(4))
            along = sum(
                float((one * other).sum())
                for one, other in zip(direction, gradients.along(pushed), strict=True)
            )
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    for parameter, move in zip(parameters, direction, strict=True):
                        parameter += step * move
                    values.append(float(plain_sum(double, pushed)))
                    for parameter, move in zip(parameters, direction, strict=True):
                        parameter -= step * move
        assert along == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3)
    finally:
        model.float()


def test_lora_is_the_gradient_of_b_where_it_is_zero(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
    with weight_space(model, SpaceSpec("lora", rank=3)) as parameters:
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)
        gradients = LogitGradients(ForcedResponses(model, SEQUENCES, POSITIONS), parameters)
        pushed = pushes(5)
        expected = torch.autograd.grad(plain_sum(model, pushed), parameters)
        for found, want in zip(gradients.along(pushed), expected, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        assert len(parameters) == len(linear) - 1  # all but the output layer
        assert all(parameter.shape[1] == 3 for parameter in parameters)
        assert any(float(part.abs().sum()) > 0 for part in gradients.along(pushed))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)


def test_layers_are_chosen_by_name(model):
    with weight_space(model, parse_space("layers=model.layers.1.*")) as parameters:
        assert 0 < len(parameters) < len(list(model.parameters()))
    with (
        pytest.raises(UsageError, match="has no weights of that name"),
        weight_space(model, parse_space("layers=nothing*")),
    ):
        pass


@pytest.mark.parametrize("text", ["", "layers=", "lora", "lora:rank=0", "lora:rank=x", "most"])
def test_other_spaces_are_refused(text):
    with pytest.raises(UsageError, match="is no space of weights"):
        parse_space(text)


def test_a_sketch_keeps_inner_products():
    """Unbiased over its signs, with the error that the docstring states; exact where it fits."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(700, 40), (40,), (90, 30)]
    x, y = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    y = [0.5 * one + other for one, other in zip(x, y, strict=True)]
    exact = sum(float((one * other).sum()) for one, other in zip(x, y, strict=True))
    lengths = [math.sqrt(sum(float((part**2).sum()) for part in z)) for z in (x, y)]
    whole = Sketch(x, size=1 << 20)
    assert whole.exact
    assert float(whole.of(x) @ whole.of(y)) == pytest.approx(exact, rel=1e-5)
    errors = []
    for size in range(1001, 1041):  # another size is another sketch
        sketch = Sketch(x, size=size)
        assert sketch.of(x).shape == (size,)
        errors.append(float(sketch.of(x) @ sketch.of(y)) - exact)
    scale = lengths[0] * lengths[1] * math.sqrt(2 / 1001)
    assert abs(np.mean(errors)) < 4 * scale / math.sqrt(40)
    assert 0.4 * scale < np.sqrt(np.mean(np.square(errors))) < 1.2 * scale
