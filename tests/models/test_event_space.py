"""Distributions over the tokens that both models have, however their output layers are padded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import gradalign
from gradalign.demo import model_path
from gradalign.engines import Request, open_engine
from gradalign.errors import TokenizerMismatchError
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.distributions import ForcedSequence, forced_log_probs, top_tokens
from gradalign.models.event_space import EventSpace, event_space, only
from tests.models.altered import bundled_copy, edit_json, padded_copy

IDS = st.sets(st.integers(0, 30))

QUICK = {
    "task": "demo:addition",
    "limit": 2,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "max_tokens": 60,
    "diagnose": ["none"],
    "bootstrap_resamples": 100,
}


@given(IDS, IDS)
def test_spaces_are_sets_of_ids(left, right):
    one, other = EventSpace.of(left), EventSpace.of(right)
    every = np.arange(40)
    assert set(every[one.mask(every)].tolist()) == left
    assert (one.size, one.end) == (len(left), max(left, default=-1) + 1)
    assert one.common(other) == EventSpace.of(left & right)
    assert set(one.missing(35).tolist()) == set(range(35)) - left
    assert all((token in one) == (token in left) for token in range(40))
    assert EventSpace.stored(json.loads(json.dumps(one.ranges))) == one


def test_a_models_tokens_are_those_with_a_name_and_a_row():
    tokenizer = load_tokenizer(str(model_path("student")))
    assert event_space(tokenizer, 400).ranges == ((0, 259),)
    assert event_space(tokenizer, 200).ranges == ((0, 200),)
    tokenizer.add_tokens(["<one more>"])
    assert event_space(tokenizer, 400).ranges == ((0, 260),)
    assert event_space(tokenizer, 259).ranges == ((0, 259),)


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """The bundled student with rows that get much of its mass, and none of its tokens' names."""
    return padded_copy(tmp_path_factory.mktemp("padded") / "student", "student", 77, scale=0.8)


def load(path):
    return transformers.AutoModelForCausalLM.from_pretrained(path).eval().requires_grad_(False)


def test_logits_are_cut_while_the_block_lasts(padded):
    plain, wide = load(model_path("student")), load(padded)
    sequence = ForcedSequence([1, 20, 13], [21, 31, 22])
    holes = EventSpace(((0, 100), (105, 250)))
    ((_, expected),) = forced_log_probs(plain, [sequence])
    with only(wide, EventSpace(((0, 259),))):
        ((_, found),) = forced_log_probs(wide, [sequence])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    kept = torch.from_numpy(holes.mask(np.arange(250)))
    with only(wide, holes):
        ((_, some),) = forced_log_probs(wide, [sequence])
    assert (some[:, ~kept] == -torch.inf).all()
    renormalised = torch.log_softmax(expected[:, :250][:, kept], dim=-1)
    torch.testing.assert_close(some[:, kept], renormalised, atol=1e-5, rtol=0)
    ids, _ = top_tokens(some, np.array([0, 1]), holes.size)
    assert holes.mask(ids).all()
    ((_, whole),) = forced_log_probs(wide, [sequence])
    assert whole.shape[1] == 336
    assert whole[:, 259:].exp().sum() > 0.01


def test_the_embedded_engine_draws_and_scores_without_them(padded):
    requests = [Request((1, 20, 13, 21, 31), 12, seed) for seed in range(40)]
    drawn, scores = {}, {}
    for path, tokens in ((model_path("student"), None), (padded, EventSpace(((0, 259),)))):
        with open_engine("transformers", path, tokens=tokens) as engine:
            found = dict(engine.generate(requests))
            drawn[path] = [found[i].token_ids.tolist() for i in range(len(requests))]
            (scores[path],) = engine.logprobs([[1, 20, 13, 21, 31]], [1])
    assert drawn[padded] == drawn[model_path("student")]
    np.testing.assert_allclose(scores[padded], scores[model_path("student")], atol=1e-5)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The bundled student with a token and a row more."""
    folder = tmp_path_factory.mktemp("longer") / "student"
    padded_copy(folder, "student", 1, scale=0.7)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    return folder


def assert_the_same_model(report):
    """Nothing tells the teacher from the student, at any position."""
    every = report.alignment
    assert len(every)
    assert every["cosine"].isna().all()
    assert every["method_norm2"].fillna(0).abs().max() < 1e-9
    assert report.summary["pooled"].isna().all()
    tokens = report.tokens
    for name in ("logprob", "entropy"):
        np.testing.assert_allclose(tokens[f"teacher_{name}"], tokens[f"student_{name}"], atol=1e-5)
    assert (tokens["overlap_ratio"] == 1).all()


def test_a_teacher_that_is_the_student_but_for_padding_points_nowhere(padded, tmp_path):
    report = gradalign.score(
        student="demo:student",
        teachers=[str(padded)],
        methods=["gkd", "minillm"],
        output_dir=str(tmp_path / "run"),
        **QUICK,
    )
    assert_the_same_model(report)
    resolved = report.metadata["resolved"]
    assert resolved["token_ranges"] == [[0, 259]]
    assert resolved["common_token_ranges"] == {str(padded): [[0, 259]]}
    held = report.distributions["token_ids"].map(len) + report.distributions["num_tail"]
    assert (held == 259).all()


def test_a_student_is_cut_too_and_a_teacher_may_lack_a_token_of_its(longer, tmp_path):
    """Even with much mass on that token, which the student may draw and be forced to."""
    report = gradalign.score(
        student=str(longer),
        teachers=["demo:student"],
        methods=["gkd", "minillm"],
        alignment="weights",
        output_dir=str(tmp_path / "run"),
        **QUICK,
    )
    assert report.metadata["resolved"]["token_ranges"] == [[0, 260]]
    assert_the_same_model(report)
    own = report.table("positions").set_index(["spine_id", "position"])["student_logprob"]
    cut = report.tokens.set_index(["spine_id", "position"])["student_logprob"]
    mass = 1 - np.exp((own - cut).to_numpy())
    assert mass.max() > 1e-4
    scores = report.table("continuation_scores")
    assert set(scores["teacher"]) == {"", "demo:student", "student for demo:student"}
    added = gradalign.rescore(report.path, teachers=["demo:weak"])
    ranges = added.metadata["resolved"]["common_token_ranges"]
    assert ranges == {"demo:student": [[0, 259]], "demo:weak": [[0, 259]]}
    assert np.isfinite(added.summary.query("teacher == 'demo:weak'")["pooled"]).any()


def test_a_teacher_without_a_token_that_was_drawn_is_refused(tmp_path):
    folder = bundled_copy(tmp_path / "short", "student")
    model = load(folder)
    model.resize_token_embeddings(31)  # without "=", which every prompt ends with
    model.save_pretrained(folder)
    edit_json(folder / "generation_config.json", eos_token_id=2)
    with pytest.raises(TokenizerMismatchError, match=r"the prompt has the token '=' \(31\)"):
        gradalign.score(
            student="demo:student",
            teachers=[str(folder)],
            methods=["gkd"],
            output_dir=str(tmp_path / "run"),
            **QUICK,
        )
