"""What is asked of a server before any work: is it there, which model, how long, which ids."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gradalign.engines.server.http import (
    ServerAddress,
    ServerUnavailableError,
    check_status,
    unavailable,
)
from gradalign.errors import EngineError, UsageError

CHECK_SECONDS = 30.0

_PROBE_TEXT = "Answer: 3x+12=57, so x = 15.\n<b>Größe</b> 日本 🙂"
"""Text that different tokenizers cut differently."""


@dataclass(frozen=True)
class ServedModel:
    """A server that was found to have the model.

    Attributes:
        address: where it is.
        name: what the server calls the model.
        max_model_len: its context in tokens, None if it does not say.
    """

    address: ServerAddress
    name: str
    max_model_len: int | None


@dataclass(frozen=True)
class WantedModel:
    """What a server must have.

    Attributes:
        names: names under which the model may be served, such as its hub id and its folder.
        vocab_size: size of the model's output layer.
        max_model_len: tokens of context needed at least, None for any.
        tokenizer: the model's tokenizer, None if it has none.
        flag: the setting that the servers came from, for messages.
    """

    names: Sequence[str]
    vocab_size: int
    max_model_len: int | None
    tokenizer: Any | None
    flag: str = "--base-url"


def find_servers(
    addresses: Sequence[ServerAddress], wanted: WantedModel, *, all_must_answer: bool = False
) -> list[ServedModel]:
    """Ask every server what it serves; leave out those that do not answer, with a warning.

    Args:
        addresses: at least one.
        wanted: the model that they must have.
        all_must_answer: a server that does not answer is an error, as at the start of a run.

    Raises:
        EngineError: no server answers (or not all, where all must).
        UsageError: one serves another model, another vocabulary, too short a context, or wants
            another key.
    """
    found: list[ServedModel] = []
    silent: list[str] = []
    for address in addresses:
        try:
            with httpx.Client(**address.client_options(CHECK_SECONDS)) as client:
                found.append(_look_at(client, address, wanted))
        except httpx.TransportError as error:
            silent.append(f"{address.url} ({unavailable(error)})")
        except ServerUnavailableError as error:
            silent.append(f"{address.url} ({error})")
    if silent and (all_must_answer or not found):
        raise EngineError(
            f"no answer from {'; '.join(silent)}.",
            f"Check {wanted.flag}, and that the server has finished starting.",
        )
    for text in silent:
        warnings.warn(f"no answer from {text}: it is left out.", stacklevel=3)
    return found


def _look_at(client: httpx.Client, address: ServerAddress, wanted: WantedModel) -> ServedModel:
    response = client.get(f"{address.url}/models")
    if response.status_code == 404:
        raise UsageError(
            f"{address.url} has no list of models: this is not an OpenAI-compatible server.",
            f"Check the path of {wanted.flag}.",
        )
    check_status(response, address)
    models = _models(response, address, wanted.flag)
    name = _name_of(models, address, wanted)
    length = models[name].get("max_model_len")
    served = ServedModel(address, name, int(length) if length else None)
    needed = wanted.max_model_len
    if needed is not None and served.max_model_len is not None and served.max_model_len < needed:
        raise UsageError(
            f"server {address.url} has a context of {served.max_model_len} tokens, but prompts and "
            f"responses of this run may need {needed}.",
            f"Start it with --max-model-len {needed} or more, or lower --max-tokens.",
        )
    _check_vocabulary(client, served, wanted)
    return served


def _models(response: httpx.Response, address: ServerAddress, flag: str) -> dict[str, Any]:
    try:
        return {str(entry["id"]): dict(entry) for entry in response.json()["data"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{address.url}/models is not the list of models of an OpenAI-compatible server.",
            f"Check {flag}.",
        ) from error


def _name_of(models: dict[str, Any], address: ServerAddress, wanted: WantedModel) -> str:
    """Find the model among those served, by its name there or by what it was loaded from."""
    names = {_plain(name) for name in wanted.names}
    for name, entry in models.items():
        if _plain(name) in names or _plain(str(entry.get("root") or "")) in names:
            return name
    served = ", ".join(
        f"{name!r} (from {root})"
        if (root := entry.get("root")) not in (None, name)
        else f"{name!r}"
        for name, entry in models.items()
    )
    raise UsageError(
        f"server {address.url} does not serve {wanted.names[0]}; it serves {served or 'nothing'}.",
        "If that is the same model under another name, pass --engine-args served_model_name=NAME "
        "(for a teacher, start the server with --served-model-name).",
    )


def _plain(name: str) -> str:
    """Make two spellings of one folder equal; leave hub ids alone."""
    return os.path.realpath(name) if Path(name).expanduser().is_dir() else name


def _check_vocabulary(client: httpx.Client, served: ServedModel, wanted: WantedModel) -> None:
    """Compare the ids of a text, and see whether the server knows the model's last id.

    A server without a tokenizer refuses text. It does not check ids either, and dies of one
    that it has no embedding for: nothing more is asked of it.
    """
    url = served.address.url
    response = _probe(client, served, _PROBE_TEXT)
    if response.status_code in {400, 422}:
        return
    check_status(response, served.address)
    theirs = response.json()["choices"][0].get("prompt_token_ids")
    if theirs is None:
        raise UsageError(
            f"server {url} does not return token ids.",
            "A vLLM server that knows return_token_ids is needed: upgrade it.",
        )
    if wanted.tokenizer is not None:
        ours = list(wanted.tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"])
        if theirs != ours:
            raise UsageError(
                f"server {url} has another vocabulary than {wanted.names[0]}: the same text is "
                f"{_some(theirs)} there and {_some(ours)} here.",
                "Serve the very checkpoint that is named here, with its own tokenizer.",
            )
    last = wanted.vocab_size - 1
    response = _probe(client, served, [last])
    if response.status_code == 400 and "vocabulary" in response.text:
        raise UsageError(
            f"server {url} has a smaller vocabulary than {wanted.names[0]}: it does not know id "
            f"{last}.",
            "Serve the very checkpoint that is named here.",
        )
    check_status(response, served.address)


def _probe(client: httpx.Client, served: ServedModel, prompt: str | list[int]) -> httpx.Response:
    return client.post(
        f"{served.address.url}/completions",
        json={
            "model": served.name,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 1.0,
            "seed": 0,
            "add_special_tokens": False,
            "return_token_ids": True,
        },
    )


def _some(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:6]))}{', ...' if len(ids) > 6 else ''}]"
