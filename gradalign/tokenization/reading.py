"""The bytes and merges of a checkpoint's tokenizer.

Known are byte-pair encodings: over bytes, as GPT-2's, and over characters with bytes for the rest,
as SentencePiece's, whose spaces are written as U+2581. A text is taken as it is: Unicode
normalisation and a space that a tokenizer puts in front of a text are left out, since a response
goes on from a prompt.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from gradalign.errors import TokenizerMismatchError
from gradalign.tokenization.pairs import BytePairs

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_TAG = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_NORMALISERS = {"NFC", "NFKC", "Replace", "Prepend", "Precompiled", "Sequence"}
_STAND_IN = "\u00aa"
"""A letter in the place of bytes that are no whole character."""


@lru_cache(maxsize=4)
def byte_pairs(tokenizer: Any, label: str) -> BytePairs:
    """Return a tokenizer of transformers over bytes.

    Special tokens have no bytes, nor have added ones that are written as tags: they are known by
    what they do.

    Args:
        tokenizer: a fast one.
        label: whose it is, for messages.

    Raises:
        TokenizerMismatchError: it is no byte-pair encoding, or changes texts before it cuts them.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    settings = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    model = settings["model"]
    wrong = sorted(set(_kinds(settings.get("normalizer"))) - _NORMALISERS)
    if model.get("type") != "BPE" or wrong:
        what = f"normalises by {', '.join(wrong)}" if wrong else "is not byte-pair encoding"
        raise TokenizerMismatchError(
            f"the tokenizer of {label} {what}, which cannot be read as bytes.",
            "Choose a teacher with the student's tokenizer, or one with byte-pair encoding.",
        )
    vocabulary: dict[str, int] = model["vocab"]
    added = settings.get("added_tokens", [])
    over_bytes = "ByteLevel" in {*_kinds(settings["decoder"]), *_kinds(settings["pre_tokenizer"])}
    alphabet = _alphabet()
    pieces: list[bytes | None] = [None] * (1 + max([*vocabulary.values(), *_ids(added)], default=0))
    for text, token in vocabulary.items():
        if over_bytes:
            known = all(character in alphabet for character in text)
            pieces[token] = bytes(alphabet[character] for character in text) if known else None
        else:
            byte = _BYTE.fullmatch(text) if model.get("byte_fallback") else None
            pieces[token] = (
                bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()
            )
    texts: dict[bytes, int] = {}
    for item in added:
        role = item["special"] or _TAG.fullmatch(item["content"])
        pieces[item["id"]] = None if role else item["content"].replace(_SPACE, " ").encode()
        if not role:
            texts[pieces[item["id"]] or b""] = item["id"]
    merges: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        joined = vocabulary.get(left + right)
        if joined is not None and left in vocabulary and right in vocabulary:
            merges.setdefault((vocabulary[left], vocabulary[right]), (rank, joined))
    symbols = _byte_symbols(vocabulary, alphabet) if over_bytes else _character_symbols(vocabulary)
    return BytePairs(
        pieces,
        merges,
        _with_added(symbols, texts),
        _splitter(backend.pre_tokenizer, texts, " " if over_bytes else _SPACE),
        whole=bool(model.get("ignore_merges")),
    )


def _ids(added: Collection[dict[str, Any]]) -> list[int]:
    return [int(item["id"]) for item in added]


def _kinds(part: Any) -> list[str]:
    """Return the types of a part of a tokenizer and of all that it is made of."""
    if isinstance(part, dict):
        own = [part["type"]] if isinstance(part.get("type"), str) else []
        return own + [kind for value in part.values() for kind in _kinds(value)]
    return [kind for value in part for kind in _kinds(value)] if isinstance(part, list) else []


def _alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(rest)
    }


def _byte_symbols(
    vocabulary: dict[str, int], alphabet: dict[str, int]
) -> Callable[[bytes], list[int]]:
    of_byte = {byte: vocabulary[text] for text, byte in alphabet.items() if text in vocabulary}
    return lambda text: [of_byte[byte] for byte in text]


def _character_symbols(vocabulary: dict[str, int]) -> Callable[[bytes], list[int]]:
    """Cut a text into characters, and into bytes what is none or not known."""
    of_byte = {
        int(match[1], 16): token
        for text, token in vocabulary.items()
        if (match := _BYTE.fullmatch(text))
    }

    def symbols(text: bytes) -> list[int]:
        found: list[int] = []
        for character, piece in _characters(text):
            token = vocabulary.get(_SPACE if character == " " else character)
            known = token is not None and character.encode() == piece
            found += [token] if known and token is not None else [of_byte[byte] for byte in piece]
        return found

    return symbols


def _with_added(
    symbols: Callable[[bytes], list[int]], texts: dict[bytes, int]
) -> Callable[[bytes], list[int]]:
    """Let the text of an added token be that token."""
    return lambda text: [texts[text]] if text in texts else symbols(text)


def _characters(text: bytes) -> list[tuple[str, bytes]]:
    """Return a text's characters with their bytes; a stand-in for bytes that are no character."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    found: list[tuple[str, bytes]] = []
    held = b""
    for place in range(len(text)):
        byte = text[place : place + 1]
        try:
            character = decoder.decode(byte)
        except UnicodeDecodeError:
            decoder.reset()
            found += [(_STAND_IN, bytes([item])) for item in held]
            held = b""
            try:
                character = decoder.decode(byte)
            except UnicodeDecodeError:
                decoder.reset()
                found.append((_STAND_IN, byte))
                continue
        held += byte
        if character:
            found.append((character, held))
            held = b""
    return found + [(_STAND_IN, bytes([item])) for item in held]


def _splitter(
    pre_tokenizer: Any, texts: dict[bytes, int], space: str
) -> Callable[[bytes], list[bytes]]:
    """Return how a tokenizer cuts a text into the parts that it encodes by themselves."""
    pattern = re.compile(b"|".join(map(re.escape, sorted(texts, key=len, reverse=True))))

    def parts(text: bytes) -> list[bytes]:
        if pre_tokenizer is None or not text:
            return [text] if text else []
        pairs = _characters(text)
        ends = [0]
        for _, piece in pairs:
            ends.append(ends[-1] + len(piece))
        characters = "".join(character for character, _ in pairs).replace(" ", space)
        cut = pre_tokenizer.pre_tokenize_str(characters)
        return [text[ends[begin] : ends[end]] for _, (begin, end) in cut]

    def split(text: bytes) -> list[bytes]:
        found: list[bytes] = []
        begin = 0
        for match in pattern.finditer(text) if texts else ():
            found += [*parts(text[begin : match.start()]), match[0]]
            begin = match.end()
        return found + parts(text[begin:])

    return split
