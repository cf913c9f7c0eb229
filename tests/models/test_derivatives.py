"""Derivatives of logits along a direction of the weights: numerators without a backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional

from gradalign.errors import ModelError
from gradalign.models import loaded_model
from gradalign.models.derivatives import derivatives, step_along
from gradalign.models.distributions import ForcedSequence
from gradalign.models.gradients import ForcedResponses, LogitGradients, Push
from gradalign.models.weight_space import parse_space, weight_space
from tests.models.architectures import make

LENGTH, FOLDS = 10, 3
QUESTIONS = 6


def sequences(vocab: int, question: int) -> list[ForcedSequence]:
    rng = np.random.default_rng(question)
    prompt = tuple(rng.integers(3, vocab, 4).tolist())
    return [ForcedSequence(prompt, tuple(rng.integers(3, vocab, LENGTH).tolist())) for _ in "ab"]


def pushes(vocab: int, seed: int) -> list[Push]:
    """Directions of an arm that sum to 0, at every other position of two responses."""
    rng = np.random.default_rng(seed)
    made = []
    for response in (0, 1):
        for position in range(response, LENGTH, 2):
            values = rng.normal(size=6)
            tokens = rng.choice(np.arange(3, vocab), 6, replace=False)
            made.append(Push(response, position, tokens, values - values.mean()))
    return made


POSITIONS = [range(0, LENGTH, 2), range(1, LENGTH, 2)]


def product(left, right) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))


def by_derivative(batches, own) -> float:
    """The sum of a_u . m_u over the nodes of one question."""
    total = 0.0
    for batch in batches:
        for push in own:
            if push.response in batch.places:
                at = batch.places[push.response], batch.columns[push.response, push.position]
                a_T = batch.derivative[at].double()[torch.from_numpy(push.token_ids)]
                total += float(a_T @ torch.from_numpy(push.values))
    return total


def numerators(model, space: str, way: str) -> tuple[float, float, float]:
    """Return N by derivatives and by backward passes, fold by fold, and the length |G| |M|."""
    vocab = min(int(model.config.vocab_size), 259)
    with weight_space(model, parse_space(space)) as parameters:
        responses = [
            ForcedResponses(model, sequences(vocab, q), POSITIONS) for q in range(QUESTIONS)
        ]
        gradients = [LogitGradients(own, parameters) for own in responses]
        ideal = [one.along(pushes(vocab, 100 + q)) for q, one in enumerate(gradients)]
        method = [one.along(pushes(vocab, 200 + q)) for q, one in enumerate(gradients)]
        found = wanted = size = 0.0
        for fold in range(FOLDS):
            others = [g for q, g in enumerate(ideal) if q % FOLDS != fold]
            mean = [sum(parts) / len(others) for parts in zip(*others, strict=True)]
            step = step_along(model, parameters, mean, responses[0])
            for q in range(fold, QUESTIONS, FOLDS):
                batches = derivatives(model, parameters, mean, responses[q], way=way, step=step)
                found += by_derivative(batches, pushes(vocab, 200 + q)) / QUESTIONS
                wanted += product(mean, method[q]) / QUESTIONS
                size += math.sqrt(product(mean, mean) * product(method[q], method[q])) / QUESTIONS
    return found, wanted, size


MODELS = [
    ("demo:student", "all"),
    ("demo:student", "lora:rank=3"),
    ("gemma3", "all"),
    ("gemma3", "lora:rank=3"),
    ("gpt2", "all"),
]
ROUTED = ("qwen3_moe", "all")
"""Its experts have no kernel in float64."""


@pytest.fixture
def model(request) -> Iterator[torch.nn.Module]:
    if request.param.startswith("demo:"):
        with loaded_model(request.param, device="cpu", dtype="float32") as loaded:
            yield loaded
    else:
        yield make(request.param).float()


@pytest.fixture
def double_throughout(monkeypatch) -> None:
    """Many norms, attentions and frequencies are in float32 whatever the model is in: not here."""
    plain_to, plain_float, plain_softmax = torch.Tensor.to, torch.Tensor.float, functional.softmax

    def to(self, *args, **kwargs):
        if self.dtype == torch.float64 and torch.float32 in args:
            return self
        return plain_to(self, *args, **kwargs)

    def to_float(self):
        return self if self.dtype == torch.float64 else plain_float(self)

    def softmax(values, dim=None, dtype=None, **_):
        return plain_softmax(values, dim=dim)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "float", to_float)
    monkeypatch.setattr(functional, "softmax", softmax)


@pytest.mark.usefixtures("double_throughout")
@pytest.mark.parametrize(("model", "space"), MODELS, indirect=["model"])
def test_forward_mode_gives_the_numerators_of_backward_passes(model, space):
    found, wanted, size = numerators(model.double(), space, "forward")
    assert abs(wanted) > 1e-3 * size
    assert found == pytest.approx(wanted, rel=0, abs=1e-9 * size)


@pytest.mark.parametrize(("model", "space"), [*MODELS, ROUTED], indirect=["model"])
def test_differences_give_them_in_float32(model, space):
    found, wanted, size = numerators(model, space, "differences")
    assert abs(wanted) > 1e-3 * size
    assert found == pytest.approx(wanted, rel=0, abs=1e-3 * size)


@pytest.mark.parametrize(("model", "space"), [ROUTED], indirect=["model"])
def test_an_operation_without_a_forward_derivative_is_refused(model, space):
    with pytest.raises(ModelError, match="no forward-mode derivative"):
        numerators(model, space, "forward")


def test_layers_chosen_by_name_have_derivatives_too():
    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        for way in ("forward", "differences"):
            found, wanted, size = numerators(model, "layers=model.layers.1.*", way)
            assert found == pytest.approx(wanted, rel=0, abs=1e-3 * size)
        for name, weight in model.named_parameters():  # nothing was moved
            assert torch.equal(weight, before[name])


def test_a_direction_of_no_length_has_a_derivative_of_0():
    model = make("gpt2")
    with weight_space(model, parse_space("all")) as parameters:
        responses = ForcedResponses(model, sequences(48, 0), POSITIONS)
        nothing = [torch.zeros_like(parameter) for parameter in parameters]
        step = step_along(model, parameters, nothing, responses)
        assert step == 0.0
        (batch,) = derivatives(model, parameters, nothing, responses, step=step)
        assert not batch.derivative.any()
        (row,) = (batch.logits[:1, :1],)
        assert torch.isfinite(row).all()
