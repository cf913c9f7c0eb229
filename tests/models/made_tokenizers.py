"""Small real tokenizers: byte-level, with special tokens and chat templates of several habits."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TURNS = (
    "{%- for message in messages %}"
    "{{- '<|turn|>' + message['role'] + '\n' + message['content'] + '<|stop|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|turn|>assistant\n' }}"
    "{%- if think is defined and not think %}{{- '<think></think>' }}{%- endif %}"
    "{%- endif %}"
)
"""Ends turns with another token than the tokenizer's end token, as base models' templates do."""

NO_SYSTEM = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{{ raise_exception('no system messages') }}{%- endif %}"
    "{{- message['content'] }}{%- endfor %}"
)


def build(
    *,
    template: str | None = TURNS,
    merges: Sequence[tuple[str, str]] = (),
    special: Sequence[str] = ("<|end|>", "<|turn|>", "<|stop|>"),
    plain: Sequence[str] = ("<think>", "</think>", "<tool>"),
    begin: str | None = None,
    append_end: bool = False,
) -> PreTrainedTokenizerFast:
    """Make a tokenizer: 256 bytes, the merges, then the special and the plain added tokens.

    Args:
        template: its chat template.
        merges: pairs of byte-level symbols that become one token each.
        special: added tokens that it calls special; the first one ends a text.
        plain: added tokens that it does not.
        begin: a special token that it puts in front.
        append_end: whether it puts the end token behind.
    """
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.add_tokens([AddedToken(token, special=False) for token in plain])
    if begin or append_end:
        used = [token for token in (begin, special[0] if append_end else None) if token]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin or ''} $A {special[0] if append_end else ''}".strip(),
            special_tokens=[(token, backend.token_to_id(token)) for token in used],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=special[0],
        bos_token=begin,
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )
