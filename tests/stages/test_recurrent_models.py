"""A whole run of models with a state in place of keys and values, and of a hybrid of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import gradalign
from gradalign.models import loaded_model
from gradalign.report.report import Report
from tests.models.architectures import save

IDS: dict[str, Any] = {
    "vocab_size": 259,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
}
ATTENTION: dict[str, Any] = {
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "lfm2": lambda: transformers.Lfm2Config(
        **IDS, **ATTENTION, layer_types=["conv", "full_attention"]
    ),
    "mamba2": lambda: transformers.Mamba2Config(
        **IDS, state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8
    ),
    "falcon_h1": lambda: transformers.FalconH1Config(
        **IDS,
        **ATTENTION,
        head_dim=8,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_expand=2,
        mamba_chunk_size=8,
        mamba_d_ssm=64,
    ),
}
"""Short convolutions, a state space alone, and a state space beside attention."""


VERIFIER = "def check(text, question):\n    return float(len(text) % 2 == 0)\n"
"""Rewards what a random model gets right half of the time."""


@pytest.fixture(scope="module", params=CONFIGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run of a model that learns from itself, from itself told the answer, and from another."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save(CONFIGS[request.param](), folder / "model")
    (folder / "even_text.py").write_text(VERIFIER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        return gradalign.score(
            student=model,
            teachers=["self", "self+answer", "demo:strong"],
            task="demo:addition",
            verifier="even_text:check",
            methods=["gkd:beta=1", "minillm"],
            limit=2,
            num_rollouts=2,
            nodes=2,
            continuations=4,
            max_candidates=3,
            max_tokens=8,
            # A random model seldom draws its own end token.
            stop_token_ids=list(range(120, 259)),
            bootstrap_resamples=100,
            engine="transformers",
            output_dir=str(folder / "run"),
        )


def plain_log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    """What a model says behind a sequence, called in the plainest way."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)


def test_probabilities_are_those_of_a_plain_forward_pass(run: Report) -> None:
    prompts = run.questions.set_index("question_id")["prompt_ids"]
    spines = run.spines.set_index("spine_id")
    rows = run.distributions
    rows = rows[rows["teacher"] == "self"]
    assert len(rows) == len(run.nodes) > 0
    with loaded_model(run.config.student, device="cpu") as model:
        for row in rows.to_dict("records"):
            response = spines.loc[row["spine_id"], "token_ids"][: row["position"]]
            own = plain_log_probs(model, [*prompts[row["question_id"]], *response])
            wanted = own[torch.tensor(list(row["token_ids"]))]
            np.testing.assert_allclose(row["student_logprobs"], wanted, atol=2e-4)
            np.testing.assert_allclose(row["teacher_logprobs"], wanted, atol=2e-4)


def test_a_teacher_that_is_the_student_has_no_direction(run: Report) -> None:
    frame = run.alignment
    same = frame[(frame["teacher"] == "self") & (frame["method"] == "gkd:beta=1")]
    assert len(same) == len(run.nodes) > 0
    assert (same["method_norm2"].fillna(0.0) < 1e-12).all()
    assert same["cosine"].isna().all()
    for teacher in ("self+answer", "strong"):
        other = frame[frame["teacher"].str.contains(teacher, regex=False)]
        assert np.isfinite(other["method_norm2"]).all()
        assert (other["method_norm2"] > 1e-9).any()
        assert other["cosine"].notna().any()


def test_rewards_are_what_the_verifier_gives_for_the_stored_tokens(run: Report) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.config.student)
    rows = run.table("continuations")
    spines = run.spines.set_index("spine_id")
    for row in rows.to_dict("records"):
        head = spines.loc[row["spine_id"], "token_ids"][: row["position"]]
        ids = [*head, row["candidate_id"], *row["token_ids"]]
        ended = row["finish_reason"] != "length"
        if ended:
            ids.pop()  # the end is no text
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert row["reward"] == float(ended and len(text) % 2 == 0)
    assert 0.0 < rows["reward"].mean() < 1.0
