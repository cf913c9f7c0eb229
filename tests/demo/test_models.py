"""The shipped weights do what the model card says."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradalign.demo import MODEL_NAMES, model_path
from gradalign.demo.addition import (
    MAX_RESPONSE_TOKENS,
    context_prompt,
    extract_answer,
    generate,
    verify,
)

PROBLEMS = generate(1000, seed=2026)


def respond(name, context):
    """One response per problem, sampled at temperature 1."""
    folder = model_path(name)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [context_prompt(problem, context) for problem in PROBLEMS]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_new_tokens=MAX_RESPONSE_TOKENS,
        )
    responses = output[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(responses, skip_special_tokens=True)


def success(name, context="none"):
    texts = respond(name, context)
    return sum(verify(t, p.answer) for t, p in zip(texts, PROBLEMS, strict=True)) / len(PROBLEMS)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("student", 0.40, 0.60), ("strong", 0.97, 1.0), ("weak", 0.05, 0.20), ("middle", 0.5, 0.65)],
)
def test_success_on_held_out_questions(name, low, high):
    assert low <= success(name) <= high


@pytest.mark.parametrize("context", ["answer", "solution"])
def test_the_student_uses_what_it_is_told(context):
    assert success("student", context) >= 0.9


@pytest.mark.parametrize("name", ["student", "strong"])
def test_a_false_answer_misleads(name):
    texts = respond(name, "wrong-answer")
    told = [extract_answer(t) == p.wrong_answer for t, p in zip(texts, PROBLEMS, strict=True)]
    assert sum(told) / len(told) >= 0.9


def test_the_models_share_a_vocabulary_and_fit_in_two_megabytes():
    root = model_path("student").parent
    total = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    assert total < 2_000_000
    vocabularies = {(model_path(n) / "tokenizer.json").read_text() for n in MODEL_NAMES}
    assert len(vocabularies) == 1


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_configuration(name):
    folder = model_path(name)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["head_dim"] == 32
    assert config["dtype"] == "float32"
    generation = json.loads((folder / "generation_config.json").read_text())
    generation.pop("transformers_version")
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
