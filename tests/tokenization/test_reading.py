"""Tokenizers of transformers as bytes: the same tokens as they make themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from gradalign.demo.tokenizer import build_tokenizer
from gradalign.errors import TokenizerMismatchError
from gradalign.tokenization.reading import byte_pairs

CORPUS = [
    "the quick brown fox jumps over the lazy dog, then 12 + 34 = 46 and 1234 - 5 = 1229.",
    "def f(x):\n    return x + 1\n\n\nprint(f(41))\n",
    "don't we'll it's caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \u65e5\u672c \U0001f642\U0001f642",
] * 4

GPT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _fast(backend: Tokenizer) -> Any:
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@cache
def over_bytes() -> Any:
    """A byte-level tokenizer as GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return _fast(backend)


@cache
def over_split_bytes() -> Any:
    """A byte-level tokenizer with an expression of its own, whose parts may be whole tokens."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(GPT), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    )
    return _fast(backend)


@cache
def over_characters() -> Any:
    """One over characters, with bytes for those that it does not know, as SentencePiece's."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        [line.replace("\U0001f642", "") for line in CORPUS],
        trainers.BpeTrainer(
            vocab_size=460, special_tokens=["<unk>", *fallback], show_progress=False
        ),
    )
    # The trainer makes its special tokens added ones, which byte tokens of a checkpoint are not.
    plain = json.loads(backend.to_str())
    plain["added_tokens"] = [item for item in plain["added_tokens"] if item["content"] == "<unk>"]
    return _fast(Tokenizer.from_str(json.dumps(plain)))


KINDS = [over_bytes, over_split_bytes, over_characters, build_tokenizer]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_cut_as_the_tokenizer_cuts_text(kind: Callable[[], Any]) -> None:
    """On any Unicode text, all tokens are the same, and their bytes are the text's."""
    tokenizer = kind()
    pairs = byte_pairs(tokenizer, "it")

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.text(max_size=30), st.text("ab \n1'\u00e9\u65e5", max_size=30)))
    def check(text: str) -> None:
        if "\u2581" in text:
            return
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert pairs.encode(text.encode()) == own
        assert pairs.text(own) == text.encode()

    check()
    for line in CORPUS:
        assert pairs.encode(line.encode()) == tokenizer(line, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_tokens_with_a_role_have_no_bytes(kind: Callable[[], Any]) -> None:
    """The end of a text and a thinking tag are no text, whatever is written on them."""
    tokenizer = kind()
    pairs = byte_pairs(tokenizer, "it")
    for role in ("<|end|>", "<think>"):
        assert pairs.pieces[tokenizer.convert_tokens_to_ids(role)] is None


def test_a_character_cut_in_two_is_bytes() -> None:
    """Bytes that are no whole character are cut too, and put together again."""
    pairs = byte_pairs(over_bytes(), "it")
    text = "caf\u00e9 \u65e5\u672c".encode()
    for end in range(len(text) + 1):
        assert pairs.text(pairs.encode(text[:end])) == text[:end]


def test_other_kinds_are_refused() -> None:
    """A tokenizer without merges, or one that writes a text in small letters, is refused."""
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(TokenizerMismatchError, match="teacher T is not byte-pair"):
        byte_pairs(PreTrainedTokenizerFast(tokenizer_object=words), "teacher T")
    small = Tokenizer.from_str(over_bytes().backend_tokenizer.to_str())
    small.normalizer = normalizers.Lowercase()
    with pytest.raises(TokenizerMismatchError, match="Lowercase"):
        byte_pairs(PreTrainedTokenizerFast(tokenizer_object=small), "teacher T")
