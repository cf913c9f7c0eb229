"""Slopes of logits behind the output layer, against autograd through whole models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from runs import SMALL

import gradalign
from gradalign.analysis.update import update_level
from gradalign.errors import UsageError
from gradalign.models.distributions import ForcedSequence, forced_passes
from gradalign.models.event_space import EventSpace, only
from gradalign.models.output_layer import (
    check_output_layer,
    logit_slopes,
    logits_of,
    repeats_logits,
)
from gradalign.report.report import Report
from gradalign.stages.base import Resolved, Run
from tests.models.altered import random_checkpoint

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


@pytest.mark.parametrize("kind", CONFIGS)
def test_directions_on_logits_reach_the_weight_as_autograd_says(kind):
    model = make(kind)
    rng = np.random.default_rng(1)
    prompt, response = rng.integers(3, 61, 4).tolist(), rng.integers(3, 61, 6).tolist()
    token_NC = np.stack([rng.choice(61, 5, replace=False) for _ in range(6)])
    m_NC = rng.normal(size=token_NC.shape)
    logits_TV = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, 3:9]
    picked_NC = logits_TV.gather(1, torch.from_numpy(token_NC))
    weight = model.get_output_embeddings().weight
    (expected,) = torch.autograd.grad((picked_NC * torch.from_numpy(m_NC)).sum(), weight)

    model.requires_grad_(False)
    check_output_layer(model)
    ((_, read),) = forced_passes(model, [ForcedSequence(prompt, response)], with_hidden=True)
    hidden_ND = read.hidden_LD.numpy()
    slope_NC = logit_slopes(model, hidden_ND, token_NC)
    found = np.zeros(weight.shape)
    for n, tokens_C in enumerate(token_NC):
        np.add.at(found, tokens_C, (m_NC[n] * slope_NC[n])[:, None] * hidden_ND[n])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)
    if kind in {"phi", "tied"}:
        assert (slope_NC == 1).all()
    else:
        assert np.abs(slope_NC - 1).max() > 0.2


def test_padding_has_no_slope():
    model = make("granite").requires_grad_(False)
    slope_NC = logit_slopes(model, np.ones((1, 16), np.float32), np.array([[4, -1]]))
    np.testing.assert_allclose(slope_NC, [[0.2, 0.0]], rtol=1e-6)


class Wrapper(torch.nn.Module):
    """A model around a model, with its output layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.get_output_embeddings()


class Mixing(Wrapper):
    """Logits with their mean taken out: each follows the layer's results for all tokens."""

    def forward(self, **inputs: object) -> object:
        output = self.inner(**inputs)
        output.logits = output.logits - output.logits.mean(dim=-1, keepdim=True)
        return output


def test_logits_that_mix_are_refused():
    with pytest.raises(UsageError, match="--alignment update: Mixing computes each logit"):
        check_output_layer(Mixing(make("tied").requires_grad_(False)))


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


@pytest.fixture(scope="module")
def capped_run(tmp_path_factory) -> Report:
    """A run of a student whose logits are capped so hard that most slopes are far from 1."""
    folder = tmp_path_factory.mktemp("capped")
    cap = {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 1.5}
    student = random_checkpoint(folder / "student", transformers.Gemma2Config, **cap)
    teacher = random_checkpoint(folder / "teacher", transformers.LlamaConfig, seed=5)
    (folder / "starts_low.py").write_text(
        "def check(text, question):\n    return 1.0 if text[:1] < 'P' else 0.0\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        return gradalign.score(
            student=str(student),
            teachers=[str(teacher)],
            task="demo:addition",
            verifier="starts_low:check",
            methods=["opd"],
            limit=3,
            num_rollouts=1,
            nodes=2,
            continuations=8,
            max_tokens=8,
            # A random model seldom draws its own end token.
            stop_token_ids=list(range(120, 259)),
            alignment="update",
            diagnose=["none"],
            bootstrap_resamples=100,
            output_dir=str(folder / "run"),
        )


def test_a_run_keeps_the_slopes_of_its_candidates(capped_run):
    from gradalign.models import loaded_model

    tokens = capped_run.branches.groupby("node_id", observed=True)["token_id"].apply(list)
    nodes = capped_run.nodes.set_index("node_id")
    spines = capped_run.spines.set_index("spine_id")
    prompts = capped_run.questions.set_index("question_id")["prompt_ids"]
    with loaded_model(capped_run.metadata["config"]["student"], device="cpu") as model:
        for row in capped_run.table("slopes").itertuples():
            node = nodes.loc[row.node_id]
            spine = spines.loc[node["spine_id"]]
            ids = [*prompts[row.question_id], *spine["token_ids"][: node["position"]]]
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()
            expected = 1 - (logits[tokens[row.node_id]] / 1.5) ** 2
            np.testing.assert_allclose(row.slopes, expected, atol=1e-4)
            assert (row.slopes < 0.9).all()


def test_update_level_alignment_carries_the_slopes(capped_run):
    """The gain of [V, D] sums per question, each direction times its slopes, written out."""
    weights = 1 / capped_run.nodes.set_index("node_id")["inclusion_prob"]
    branches = dict(list(capped_run.branches.groupby("node_id", observed=True)))
    states = capped_run.table("hidden").merge(capped_run.table("slopes"), on="node_id")
    states = states.set_index("node_id")
    directions = capped_run.table("directions").set_index("node_id")
    ideal, method = ({q: np.zeros((259, 32)) for q in capped_run.questions["question_id"]}
                     for _ in range(2))  # fmt: skip
    for node, tried in branches.items():
        state, row, question = states.loc[node], directions.loc[node], tried["question_id"].iloc[0]
        tokens, mass = tried["token_id"].tolist(), tried["student_prob"].sum()
        ideal_C = np.array(tried["ideal"].fillna(0.0)) * mass * state.slopes
        method_C = np.array(row.direction, dtype=float) * state.slopes
        # What lies outside the candidates takes their mean slope.
        other_X = np.array(row.other_direction, dtype=float) * np.mean(state.slopes)
        for sums, at, m in (
            (ideal, tokens, ideal_C),
            (method, tokens, method_C),
            (method, list(row.other_ids), other_X),
        ):
            np.add.at(sums[question], at, (weights[node] * m)[:, None] * state.hidden)
    pairs = [(q, r) for q in ideal for r in ideal if q != r]
    cross = np.mean([(ideal[q] * method[r]).sum() for q, r in pairs])
    common = np.mean([(method[q] * method[r]).sum() for q, r in pairs])
    alone = np.mean([(own**2).sum() for own in method.values()])
    run = Run(capped_run.config, Resolved(**capped_run.metadata["resolved"]))
    (found,) = update_level(run).values()
    expected = cross / np.sqrt(common + (alone - common) / 32)
    assert found.gain.value == pytest.approx(expected, rel=1e-5)
