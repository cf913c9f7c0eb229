"""The tokenizer of the demo models: one token per byte, so that any text goes in and comes out.

On the task's own alphabet a byte is a character. The chat template writes a conversation as
the task writes its prompts: a system message becomes the bracketed hint, the user's turn the
question, and the generation prompt the equals sign.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
"""In the order of their ids 0, 1, 2; the 256 bytes follow."""

MAX_LENGTH = 256
"""Tokens that the demo models can attend to, prompt and response together."""

# "358+967" and "358+967=" are the same question: the generation prompt puts the sign back.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}"
    "{{- '[' + message['content'] + ']' }}"
    "{%- elif message['role'] == 'user' %}"
    "{%- if message['content'][-1:] == '=' %}"
    "{{- message['content'][:-1] }}"
    "{%- else %}"
    "{{- message['content'] }}"
    "{%- endif %}"
    "{%- else %}"
    "{{- '=' + message['content'] + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '=' }}{%- endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a new tokenizer: three special tokens and 256 bytes, `<|begin|>` put in front."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, vocabulary[BOS])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
