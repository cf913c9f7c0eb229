"""Token ids back to text: special tokens, leading blanks, characters of several tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from gradalign.models.prompts.texts import texts_after, whole_text
from gradalign.stages.student import StudentTools
from tests.models.made_tokenizers import build

BLANK = "\u2581"


def sentencepiece(decoder: str = "strip") -> PreTrainedTokenizerFast:
    """Make a tokenizer as SentencePiece models are converted: marked blanks, byte fallback."""
    vocabulary = {token: i for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for character in BLANK + "abcdefghij0123456789+=,.":
        vocabulary[character] = len(vocabulary)
    merges = [(BLANK, "4"), (BLANK + "4", "6"), (BLANK, "a")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    backend.decoder = {
        "strip": decoders.Sequence(
            [
                decoders.Replace(BLANK, " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        "metaspace": decoders.Metaspace(replacement=BLANK, prepend_scheme="first"),
    }[decoder]
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    return [int(index) for index in tokenizer.convert_tokens_to_ids(list(tokens))]


@pytest.mark.parametrize("decoder", ["strip", "metaspace"])
def test_the_first_blank_of_a_response_is_kept(decoder: str) -> None:
    tokenizer = sentencepiece(decoder)
    blank, glued = ids_of(tokenizer, BLANK + "46"), ids_of(tokenizer, "4", "6")
    # Decoded as if nothing stood before them, the two are the same text.
    assert tokenizer.decode(blank) == tokenizer.decode(glued) == "46"
    assert texts_after(tokenizer, [blank, glued, []]) == [" 46", "46", ""]
    assert texts_after(tokenizer, [ids_of(tokenizer, BLANK, BLANK + "a")]) == ["  a"]


def test_what_follows_a_prompt_completes_it_letter_by_letter() -> None:
    tokenizer = sentencepiece()
    prompt = tokenizer("a+b=")["input_ids"]
    for response in (ids_of(tokenizer, BLANK + "4", "6"), ids_of(tokenizer, "4", BLANK + "a")):
        whole = whole_text(tokenizer, [*prompt, *response])
        assert whole_text(tokenizer, prompt) + texts_after(tokenizer, [response])[0] == whole


def test_a_character_of_several_tokens_is_read_as_a_whole() -> None:
    for tokenizer, halves in (
        (sentencepiece(), ("<0xC3>", "<0xA9>")),
        (build(), ("\u00c3", "\u00a9")),  # the byte-level symbols of the same two bytes
    ):
        ids = ids_of(tokenizer, *halves)
        assert texts_after(tokenizer, [ids]) == ["\u00e9"]
        assert texts_after(tokenizer, [[token] for token in ids]) == ["\ufffd", "\ufffd"]


def test_only_the_stop_token_at_the_very_end_goes() -> None:
    tokenizer = build()
    end, turn, stop = ids_of(tokenizer, "<|end|>", "<|turn|>", "<|stop|>")
    four = ids_of(tokenizer, "4")
    assert texts_after(tokenizer, [[turn, *four, stop]], {end, stop}) == ["<|turn|>4"]
    assert texts_after(tokenizer, [[stop, *four, end, stop]], {end, stop}) == ["<|stop|>4<|end|>"]
    assert texts_after(tokenizer, [[*four, turn]], {end, stop}) == ["4<|turn|>"]


def test_blanks_before_full_stops_are_not_cleaned_up() -> None:
    vocabulary = {
        word: i for i, word in enumerate(["[UNK]", "a", "\u0120b", "\u0120.", "\u0120n't"])
    }
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True)
    assert tokenizer.decode([1, 2, 3]) == "a b."
    assert whole_text(tokenizer, [1, 2, 3]) == "a b ."
    assert texts_after(tokenizer, [[2, 4, 3]]) == [" b n't ."]


def test_responses_are_verified_as_they_were_written_behind_the_prefix() -> None:
    tokenizer = build(special=("<|end|>", ",", "7"))
    ids = np.asarray(tokenizer("3,7")["input_ids"] + [tokenizer.eos_token_id], dtype=np.int32)
    tools = StudentTools(
        engine=cast(Any, None),
        tokenizer=tokenizer,
        pool=cast(Any, SimpleNamespace()),
        response_prefix="So ",
        stop_token_ids=(tokenizer.eos_token_id,),
        failures=cast(Any, None),
    )
    assert tools.texts([ids, ids[:-1], ids]) == ["So 3,7"] * 3
    assert tools.token_texts(ids.tolist()) == ["3", ",", "7", "<|end|>"]
