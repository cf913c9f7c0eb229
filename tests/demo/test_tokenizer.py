"""The tokenizer gives text back as it was, and the chat template writes the raw prompt."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gradalign.demo import MODEL_NAMES, model_path
from gradalign.demo.addition import CONTEXTS, context_prompt, generate
from gradalign.demo.tokenizer import build_tokenizer

TOKENIZERS = {name: AutoTokenizer.from_pretrained(model_path(name)) for name in MODEL_NAMES}
STUDENT = TOKENIZERS["student"]


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_shipped_tokenizer_is_fast_and_as_built(name):
    tokenizer, built = TOKENIZERS[name], build_tokenizer()
    assert tokenizer.is_fast
    assert tokenizer.get_vocab() == built.get_vocab()
    assert tokenizer.chat_template == built.chat_template
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (0, 1, 2)


@given(st.text(max_size=80))
def test_any_text_survives_the_round_trip(text):
    if any(token in text for token in STUDENT.all_special_tokens):
        return
    ids = STUDENT(text)["input_ids"]
    assert ids[0] == STUDENT.bos_token_id
    assert len(ids) == 1 + len(text.encode())
    assert STUDENT.decode(ids, skip_special_tokens=True) == text


def test_one_token_per_printable_character():
    ids = STUDENT(string.printable, add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == len(string.printable)
    assert [STUDENT.decode([i]) for i in ids] == list(string.printable)


@pytest.mark.parametrize("context", [name for name in CONTEXTS if "reference" not in name])
def test_chat_template_gives_the_raw_prompt(context):
    for problem in generate(50, seed=5):
        prompt = context_prompt(problem, context)
        hint = prompt.removesuffix(problem.prompt)[1:-1]
        for question in (problem.prompt, problem.prompt.removesuffix("=")):
            messages = [{"role": "system", "content": hint}] if hint else []
            messages.append({"role": "user", "content": question})
            ids = STUDENT.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            assert ids == STUDENT(prompt)["input_ids"]


def test_chat_template_ends_a_finished_conversation():
    problem = generate(1, seed=5)[0]
    messages = [
        {"role": "user", "content": problem.prompt},
        {"role": "assistant", "content": problem.response},
    ]
    ids = STUDENT.apply_chat_template(messages, tokenize=True, return_dict=False)
    whole = STUDENT(problem.prompt + problem.response)["input_ids"]
    assert ids == [*whole, STUDENT.eos_token_id]
