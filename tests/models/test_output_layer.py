"""Logits from what the output layer reads, against whole passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from runs import SMALL

import gradalign
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence, forced_passes
from gradalign.models.event_space import EventSpace, only
from gradalign.models.output_layer import logits_of, repeats_logits

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


CONFIGS = {
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=0.7
    ),
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.3),
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=5.0),
    "phi": lambda: transformers.PhiConfig(**SIZES),
    "tied": lambda: transformers.Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=True),
}


def make(kind: str) -> torch.nn.Module:
    """A random model whose output layer is a layer of its own, with weights far from 0."""
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.4)
    layer = model.get_output_embeddings()
    # Autograd would otherwise add what flows through the embedding.
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    return model


def test_hidden_states_are_what_the_output_layer_reads_however_batched():
    rng = np.random.default_rng(0)
    with loaded_model("demo:student", device="cpu") as model:
        sequences = [
            ForcedSequence(
                rng.integers(4, 20, 3 + index % 4).tolist(), rng.integers(4, 20, length).tolist()
            )
            for index, length in enumerate((5, 9, 1, 7, 3))
        ]
        layer = model.get_output_embeddings()
        for batch_tokens in (1, 30, 16384):
            found = dict(
                forced_passes(model, sequences, batch_tokens=batch_tokens, with_hidden=True)
            )
            assert sorted(found) == list(range(5))
            for index, read in found.items():
                prompt, response = sequences[index].prompt_ids, sequences[index].response_ids
                with torch.no_grad():
                    whole = model(
                        input_ids=torch.tensor([[*prompt, *response]]), output_hidden_states=True
                    )
                expected = whole.hidden_states[-1][0, len(prompt) - 1 : -1]
                torch.testing.assert_close(read.hidden_LD, expected, rtol=0, atol=2e-4)
                logits = whole.logits[0, len(prompt) - 1 : -1]
                torch.testing.assert_close(
                    layer(read.hidden_LD).detach(), logits, rtol=0, atol=1e-3
                )


class Wrapper(torch.nn.Module):
    """A model around a model, with its output layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.get_output_embeddings()


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_come_again_from_what_the_layer_read(kind):
    """Whatever follows the layer, and cut to some tokens as a whole pass is."""
    model = make(kind).requires_grad_(False)
    rng = np.random.default_rng(2)
    ids = rng.integers(3, 61, 12).tolist()
    ((_, read),) = forced_passes(model, [ForcedSequence(ids[:4], ids[4:])], with_hidden=True)
    hidden_LD = read.hidden_LD.numpy()
    assert repeats_logits(model)
    truth_TV = model(input_ids=torch.tensor([ids])).logits[0, 3:-1]
    torch.testing.assert_close(logits_of(model, hidden_LD), truth_TV, rtol=1e-5, atol=1e-4)
    with only(model, EventSpace(((0, 20), (25, 50)))):
        some_TV = logits_of(model, hidden_LD[2:5])
    assert some_TV.shape == (3, 50)
    assert (some_TV[:, 20:25] == -torch.inf).all()
    torch.testing.assert_close(some_TV[:, 25:], truth_TV[2:5, 25:50], rtol=1e-5, atol=1e-4)


class Beside(Wrapper):
    """Logits that follow the tokens beside the output layer."""

    def forward(self, input_ids: torch.Tensor, **inputs: object) -> object:
        output = self.inner(input_ids=input_ids, **inputs)
        count = output.logits.shape[1]
        table = torch.nn.functional.one_hot(input_ids[:, -count:], output.logits.shape[-1])
        output.logits = output.logits + 3.0 * table
        return output


class Bypassing(Wrapper):
    """Logits of the layer's weight, without the layer."""

    def forward(self, input_ids: torch.Tensor, **inputs: object) -> object:
        output = self.inner.model(input_ids=input_ids)
        output.logits = output.last_hidden_state @ self.get_output_embeddings().weight.T
        return output


@pytest.mark.parametrize("wrapper", [Beside, Bypassing])
def test_a_layer_that_does_not_make_the_logits_by_itself_is_found_out(wrapper):
    assert not repeats_logits(wrapper(make("tied").requires_grad_(False)))


def test_such_a_student_is_read_twice_with_the_same_result(finished_runs, tmp_path, monkeypatch):
    once = finished_runs.get(**SMALL)
    monkeypatch.setattr("gradalign.stages.distributions.repeats_logits", lambda model: False)
    twice = gradalign.score(**SMALL, output_dir=str(tmp_path / "twice"))
    spines = len(once.spines)
    assert once.metadata["actual"]["figures"]["student_passes"] == spines
    assert twice.metadata["actual"]["figures"]["student_passes"] == 2 * spines
    assert twice.table("hidden")["hidden"].isna().all()
    for table, column in (("distributions", "student_logprobs"), ("alignment", "cosine")):
        found, expected = (np.hstack(run.table(table)[column]) for run in (twice, once))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
