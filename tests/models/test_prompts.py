"""Prompts as ids: raw and chat, prefixes, stop tokens, special tokens, refusals."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from gradalign.demo import model_path
from gradalign.errors import UsageError
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.prompts.render import (
    end_of_turn_id,
    render,
    special_token_ids,
    stop_token_ids,
    template_hash,
)
from gradalign.questions import Message
from tests.models.made_tokenizers import NO_SYSTEM, TURNS, build

CHAT = (Message("system", "S"), Message("user", "1+1=?"))


def test_raw_prompt_has_the_tokenizers_own_special_tokens_and_no_others() -> None:
    plain = build()
    assert plain.decode(render(plain, "a {b}\n")) == "a {b}\n"
    begin = build(special=("<|end|>", "<|begin|>"), begin="<|begin|>", template=None)
    ids = render(begin, "1+1=")
    assert ids[0] == begin.bos_token_id
    assert begin.decode(ids[1:]) == "1+1="


def test_an_appended_end_token_is_taken_off_unless_it_was_written() -> None:
    tokenizer = build(append_end=True)
    assert tokenizer("1")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(render(tokenizer, "1")) == "1"
    assert tokenizer.decode(render(tokenizer, "1<|end|>")).startswith("1<|end|>")


def test_messages_go_through_the_template_up_to_the_response() -> None:
    tokenizer = build()
    ids = render(tokenizer, CHAT)
    assert (
        tokenizer.decode(ids) == "<|turn|>system\nS<|stop|>\n<|turn|>user\n1+1=?<|stop|>\n"
        "<|turn|>assistant\n"
    )
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert ids.count(turn) == 3


def test_begin_token_is_not_doubled() -> None:
    tokenizer = load_tokenizer(str(model_path("student")))
    ids = render(tokenizer, (Message("user", "12+34"),))
    assert ids == render(tokenizer, "12+34=")
    assert ids.count(tokenizer.bos_token_id) == 1


def test_template_variables_and_prefix() -> None:
    tokenizer = build()
    ids = render(tokenizer, CHAT, template_kwargs={"think": False}, response_prefix="So ")
    assert tokenizer.decode(ids).endswith("<|turn|>assistant\n<think></think>So ")
    assert tokenizer.convert_tokens_to_ids("<think>") in ids
    raw = render(tokenizer, "Q:", response_prefix=" A")
    assert tokenizer.decode(raw) == "Q: A"


def test_prefix_is_tokenised_together_with_the_prompt() -> None:
    tokenizer = build(merges=[("Q", "A")])
    assert len(render(tokenizer, "Q", response_prefix="A")) == 1


def test_own_template_goes_first() -> None:
    tokenizer = build()
    ids = render(tokenizer, CHAT[1:], chat_template="{{ messages[-1]['content'] }}!")
    assert tokenizer.decode(ids) == "1+1=?!"
    assert render(build(template=None), CHAT, chat_template=TURNS) == render(tokenizer, CHAT)


def test_no_template_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"no chat template.*--chat-template FILE.*raw prompts"):
        render(build(template=None), CHAT)


@pytest.mark.parametrize(
    ("template", "kwargs", "message"),
    [
        (NO_SYSTEM, {}, "roles system, user: no system messages"),
        ("{{ messages[0] ", {}, "refuses"),
        ("{{ nothing.at.all }}", {}, "refuses"),
        (TURNS, {"tokenize": True}, "'tokenize' cannot be set"),
        (TURNS, {"add_generation_prompt": False}, "'add_generation_prompt' cannot be set"),
        ("{% if false %}{% endif %}", {}, "leaves out what message 1"),
        (TURNS, {"strftime_now": "noon"}, "'strftime_now' cannot be set"),
    ],
)
def test_templates_that_refuse(template: str, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(build(), CHAT, chat_template=template, template_kwargs=kwargs)


def test_template_hash_tells_templates_and_variables_apart() -> None:
    tokenizer = build()
    hashes = {
        template_hash(tokenizer),
        template_hash(tokenizer, NO_SYSTEM),
        template_hash(tokenizer, None, {"think": False}),
        template_hash(tokenizer, None, {"think": True}),
        template_hash(build(template=None)),
    }
    assert len(hashes) == 5
    assert template_hash(tokenizer, TURNS) == template_hash(tokenizer)
    assert template_hash(build(template=None)) == "none"


def test_stop_tokens_come_from_tokenizer_generation_template_and_user() -> None:
    tokenizer = build()
    end, stop = tokenizer.convert_tokens_to_ids(["<|end|>", "<|stop|>"])
    assert end_of_turn_id(tokenizer) == stop
    assert stop_token_ids(tokenizer) == tuple(sorted({end, stop}))
    assert stop_token_ids(build(template=None)) == (end,)
    assert stop_token_ids(build(template=None), 5) == (5, end)
    assert stop_token_ids(build(template=None), [5, 6]) == (5, 6, end)
    assert stop_token_ids(build(template=None), GenerationConfig(eos_token_id=[7])) == (7, end)
    assert stop_token_ids(build(template=None), {"eos_token_id": 8}) == (8, end)
    assert stop_token_ids(build(template=None), None, [3, end]) == (3, end)
    assert end_of_turn_id(build(template="{{ messages[-1]['content'] }}")) is None
    assert end_of_turn_id(build(template="{{ messages[-1]['content'] }} bye")) is None
    for bad in (-1, len(tokenizer)):
        with pytest.raises(UsageError, match=f"stop token id {bad} "):
            stop_token_ids(tokenizer, None, [bad])


def test_demo_stops_at_its_end_token() -> None:
    tokenizer = load_tokenizer(str(model_path("student")))
    assert stop_token_ids(tokenizer, [tokenizer.eos_token_id]) == (tokenizer.eos_token_id,)


def test_special_tokens_are_those_of_tokenizer_and_template() -> None:
    tokenizer = build()
    names = ["<|end|>", "<|turn|>", "<|stop|>", "<think>", "</think>"]
    # <tool> is an added token too, but neither special nor written by the template.
    assert special_token_ids(tokenizer) == frozenset(tokenizer.convert_tokens_to_ids(names))
    assert special_token_ids(build(template=None)) == frozenset(
        tokenizer.convert_tokens_to_ids(names[:3])
    )
    assert special_token_ids(build(template=None), "<tool>") == frozenset(
        tokenizer.convert_tokens_to_ids([*names[:3], "<tool>"])
    )


def test_text_of_a_row_cannot_become_template_code() -> None:
    tokenizer = build()
    text = "{{ raise_exception('x') }}{% for %}"
    ids = render(tokenizer, (Message("user", text),))
    assert text in tokenizer.decode(ids)


def test_a_prompt_of_100_000_characters() -> None:
    assert len(render(build(), "x" * 100_000)) == 100_000
