"""Rendered prompts held against what they are made of: words, turns, begin tokens, time, chance."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gradalign.errors import UsageError
from gradalign.models.prompts.render import prompt_text, render, template_notes
from gradalign.questions import Message
from tests.models.made_tokenizers import TURNS, build

USER = (Message("user", "6*7"),)
CHAT = (Message("system", "Be brief."), *USER)

PARTS = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def each(content: str) -> str:
    """Return a template that writes every message in one way."""
    return "{% for m in messages %}<{{ m.role }}>" + content + "{% endfor %}<assistant>"


MERGED = (
    "{% set first = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>"
    "{% if loop.first and first %}{{ first }}\n\n{% endif %}{{ m.content | trim }}{% endfor %}"
)
THINKS = each(
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content }}{% endif %}"
)


def text_of(template: str, messages: tuple[Message, ...], **options: Any) -> str:
    return prompt_text(build(template=template), messages, **options)


def test_contents_become_parts_where_a_template_reads_nothing_else() -> None:
    assert text_of(PARTS, CHAT) == "<system>Be brief.<user>6*7<assistant>"
    last = (*USER, Message("assistant", "It is"))
    assert text_of(PARTS, last) == "<user>6*7<assistant>It is"
    texts_for_system = PARTS.replace(
        "{% for part", "{% if m.role == 'system' %}{{ m.content + '!' }}{% else %}{% for part"
    ).replace(
        "{% endif %}{% endfor %}{% endfor %}", "{% endif %}{% endfor %}{% endif %}{% endfor %}"
    )
    assert text_of(texts_for_system, CHAT) == "<system>Be brief.!<user>6*7<assistant>"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", CHAT, "1 "),
        ("{{ messages[0].content }}", (*CHAT, *USER), "2 .user"),
        ("<{{ messages[0].role }}>", USER, "1 .user"),
        # By chance the question is a word of the template's own.
        ("Today is day 6*7 of the year.", USER, "1 .user"),
        ("{{ messages[-1].content }}", (Message("user", "6*7"), Message("tool", "6*7")), "1 .user"),
        (each("{{ m.content[:20] }}"), (Message("user", "What is six times seven, say?"),), "1 "),
        (each("{{ m.content.split('ask:')[-1] }}"), (Message("user", "Two ask: three"),), "1 "),
        ("{% for m in messages %}{{ m.contents }}{% endfor %}", USER, "1 .user"),
        (each("{% if m.role != 'assistant' %}{{ m.content }}{% endif %}"),
         (*USER, Message("assistant", "41?"), Message("user", "No.")), "2 .assistant"),
    ],
)  # fmt: skip
def test_a_message_that_is_left_out_is_named(
    template: str, messages: tuple[Message, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=f"leaves out what message {message}"):
        text_of(template, messages)


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (MERGED, CHAT),
        (each("{{ m.content | trim }}"), (Message("user", "  6*7\n"),)),
        (each("{{ m.content | tojson }}"), (Message("user", 'say "h\u00e9"\n\\frac'),)),
        (each("{{ m.content | e }}"), (Message("user", "a < b & 'c' \"d\""),)),
        (each("{{ m.content | replace('\n', ' ') }}"), (Message("user", "a\n\nb"),)),
        (each("{{ m.content.replace('/think', '') }}"), (Message("system", "S /think"), *USER)),
        (THINKS, (*USER, Message("assistant", "<think>\nhm</think>\n42"), Message("user", "?"))),
        (each("{{ m.content }}"), (*USER, Message("assistant", ""), Message("tool", "3"))),
        ("{{ messages }}", (Message("user", "it's\n\\ 'x'"),)),
    ],
)  # fmt: skip
def test_what_templates_do_to_words_by_design_is_allowed(
    template: str, messages: tuple[Message, ...]
) -> None:
    assert render(build(template=template), messages)


def test_a_last_turn_of_the_assistants_is_gone_on_with() -> None:
    last = (*CHAT, Message("assistant", "The product is"))
    text = text_of(TURNS, last)
    assert text.endswith("<|turn|>assistant\nThe product is")
    assert render(build(), last, response_prefix=" 4") == build()(text + " 4")["input_ids"]
    # Closed turns of the assistant's stay closed.
    assert "product is<|stop|>" in text_of(TURNS, (*last, Message("user", "Well?")))
    with pytest.raises(UsageError, match=r"leaves out what message 3|refuses messages"):
        text_of("{% for m in messages[:2] %}{{ m.content }}{% endfor %}", last)


def test_an_ignored_generation_prompt_is_noted() -> None:
    def notes(template: str, messages: tuple[Message, ...] = USER) -> list[str]:
        return template_notes(build(template=template), messages)

    forgets = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|stop|>{% endfor %}"
    assert notes(forgets) == [
        "the chat template ignores add_generation_prompt, so the response begins inside the "
        "user's turn."
    ]
    assert "inside the tool's turn" in notes(forgets, (*CHAT, Message("tool", "3")))[0]
    assert not notes(TURNS)
    assert not notes(PARTS)
    assert notes(PARTS.replace("{% if add_generation_prompt %}<assistant>{% endif %}", ""))
    # What the assistant says follows the user's turn at once: nothing is missing.
    brackets = (
        "{% for m in messages %}{% if m.role == 'user' %}[Q] {{ m.content }} [/Q]"
        "{% else %} {{ m.content }}<|end|>{% endif %}{% endfor %}"
    )
    assert not notes(brackets)
    assert not notes(forgets, (*USER, Message("assistant", "So")))


def test_templates_are_told_the_time_of_the_run() -> None:
    dated = "{{ strftime_now('%d %b %Y, %H:%M:%S.%f') }} " + each("{{ m.content }}")
    texts = {text_of(dated, USER, clock="2024-02-29T07:08:09") for _ in range(2)}
    assert texts == {"29 Feb 2024, 07:08:09.000000 <user>6*7<assistant>"}
    notes = template_notes(build(template=dated), USER, clock="2024-02-29T07:08:09")
    assert [note for note in notes if "2024-02-29T07:08:09" in note]
    usual = "{% if not day is defined %}{% set day = strftime_now('%Y') %}{% endif %}{{ day }}"
    usual += each("{{ m.content }}")
    given = text_of(usual, USER, clock="2024-02-29T07:08:09", template_kwargs={"day": "Monday"})
    assert given.startswith("Monday<user>")
    assert text_of(usual, USER, clock="2024-02-29T07:08:09").startswith("2024<user>")


@pytest.mark.parametrize(
    "lots", ["{{ ['a', 'b'] | random }}", "{{ lipsum(n=1) }}", "{{ range(9) | random }}"]
)
def test_templates_that_draw_lots_are_refused(lots: str) -> None:
    with pytest.raises(UsageError, match=r"something else at each call.*(random|lipsum)"):
        text_of(lots + each("{{ m.content }}"), USER)
    unused = "{% if false %}" + lots + "{% endif %}" + each("{{ m.content }}")
    assert text_of(unused, USER) == "<user>6*7<assistant>"


def test_addresses_of_objects_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"writes <generator object .* at 0x\w+>, which is another"
    ):
        text_of("{{ messages | map(attribute='content') }}" + each("{{ m.content }}"), USER)
    about = (Message("user", "What is <f object at 0x7f0000000000>?"),)
    assert text_of(each("{{ m.content }}"), about)


def with_begin(template: str | None = None) -> Any:
    return build(special=("<|end|>", "<|begin|>", "<|turn|>"), begin="<|begin|>", template=template)


@pytest.mark.parametrize("text", ["6*7=", "<|begin|>6*7="])
def test_a_raw_prompt_has_the_begin_token_once(text: str) -> None:
    tokenizer = with_begin()
    assert tokenizer.decode(render(tokenizer, text)) == "<|begin|>6*7="
    both = build(
        special=("<|end|>", "<|begin|>"), begin="<|begin|>", append_end=True, template=None
    )
    assert both.decode(render(both, text)) == "<|begin|>6*7="


@pytest.mark.parametrize("text", ["A note.\n\n<|begin|>6*7=", " <|begin|>6*7=", "1<|begin|>"])
def test_a_begin_token_inside_a_raw_prompt_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape("the begin token <|begin|> inside, behind")):
        render(with_begin(), text)


def test_begin_tokens_that_open_turns_or_part_texts_are_kept() -> None:
    turns = "<|begin|>6*7<|end|>\n<|begin|>42"
    tokenizer = with_begin()
    assert tokenizer.decode(render(tokenizer, turns)) == turns
    # The end token is the begin token too, as GPT-2 has it: it stands between texts.
    one = build(special=("<|end|>",), begin="<|end|>", template=None)
    assert one.decode(render(one, "a<|end|>b")) == "<|end|>a<|end|>b"
    assert one.decode(render(one, "<|end|>a")) == "<|end|>a"


def test_messages_have_the_begin_token_once() -> None:
    tokenizer = with_begin("{{ bos_token }}" + each("{{ m.content }}"))
    assert tokenizer.decode(render(tokenizer, USER)).count("<|begin|>") == 1
    with pytest.raises(UsageError, match=r"message 2 \(user\) holds the begin token <\|begin\|>"):
        render(tokenizer, (CHAT[0], Message("user", "<|begin|>6*7")))
    with pytest.raises(UsageError, match="--response-prefix holds the begin token"):
        render(tokenizer, USER, response_prefix="<|begin|>4")
    bare = with_begin("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    assert bare.decode(render(bare, (Message("user", "<|begin|>6*7"),))) == "<|begin|>6*7"
    turns = with_begin("{% for m in messages %}{{ bos_token }}{{ m.content }}<|end|>{% endfor %}")
    assert turns.decode(render(turns, CHAT)).count("<|begin|>") == 2
