"""What goes to /v1/completions and what comes back, as vLLM reads and writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.base import Completion
from gradalign.engines.requests import Request
from gradalign.errors import EngineError
from gradalign.models.numbers import NotNumbersError
from gradalign.models.sampling import SamplingSettings

NO_MASS = -9999.0
"""What vLLM writes for a log-probability of minus infinity, which JSON does not have."""


def sampling_body(sampling: SamplingSettings) -> dict[str, Any]:
    """Return the fields that are the same for all requests.

    Every one that a server would otherwise fill in from generation_config.json is there.
    """
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(sampling.stop_token_ids),
        # Only what the caller named ends a response, not what a config file says.
        "ignore_eos": True,
        "add_special_tokens": False,
        "return_token_ids": True,
    }


def scoring_body(
    ids: Sequence[int], server_len: int, *, num_top: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Return a request for the log-probabilities of a sequence's own tokens, and the top ones.

    A server always samples a token. A sequence that fills its context therefore leaves its last
    token to be that one, forced: reported log-probabilities are from before the forcing.
    """
    full = len(ids) >= server_len
    body = sampling_body(SamplingSettings()) | {
        "prompt": [int(token) for token in (ids[:-1] if full else ids)],
        "max_tokens": 1,
        "seed": seed,
        "prompt_logprobs": num_top,
    }
    if full:
        body |= {
            "allowed_token_ids": [int(ids[-1])],
            "logprobs": num_top,
            "return_tokens_as_token_ids": True,
        }
    return body


def token_logprobs(choice: dict[str, Any]) -> list[dict[int, float]]:
    """Return, for every position of a scored sequence, the log-probabilities by token id.

    The first position has none. Where the last token was forced (see `scoring_body`), the
    entry of the sampled token is the last one.

    Raises:
        NotNumbersError: one is no number, or all of a position are minus infinity.
    """
    rows: list[dict[int, float]] = []
    for entry in choice["prompt_logprobs"]:
        row = {int(t): _finite(e["logprob"]) for t, e in (entry or {}).items()}
        if len(row) > 1 and max(row.values()) == -np.inf:
            raise NotNumbersError
        rows.append(row)
    sampled = choice.get("logprobs")
    if sampled is not None:
        rows.append(sampled_logprobs(sampled))
    return rows


def sampled_logprobs(sampled: dict[str, Any]) -> dict[int, float]:
    """Return the log-probabilities by token id at the first sampled position."""
    return {
        int(token.removeprefix("token_id:")): _finite(value)
        for token, value in sampled["top_logprobs"][0].items()
    }


def _finite(value: float | None) -> float:
    """Return a log-probability as a number.

    Raises:
        NotNumbersError: null, NaN or infinity.
    """
    if value is None or not value < np.inf:
        raise NotNumbersError
    return -np.inf if value <= NO_MASS else value


def read_scores(choice: dict[str, Any], ids: Sequence[int], start: int) -> npt.NDArray[np.float32]:
    """Return the log-probabilities of a scored sequence's own tokens from `start` on.

    Raises:
        EngineError: the answer lacks one.
    """
    try:
        rows = token_logprobs(choice)
        return np.array([rows[t][ids[t]] for t in range(start, len(ids))], dtype=np.float32)
    except (KeyError, TypeError, IndexError) as error:
        raise EngineError(
            f"a server's answer has no log-probability of a prompt's token ({error!r}).",
            "A vLLM server is needed, which answers prompt_logprobs.",
        ) from error


def read_choices(content: bytes, count: int = 1) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the choices of an answer in order, and its usage.

    Raises:
        EngineError: the answer is not what a completions endpoint gives.
    """
    try:
        answer = json.loads(content)
        by_index = {int(choice["index"]): dict(choice) for choice in answer["choices"]}
        return [by_index[i] for i in range(count)], dict(answer.get("usage") or {})
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EngineError(
            f"a server's answer is not a completion: {content[:200]!r}.",
            "Check that --base-url leads to a vLLM server.",
        ) from error


def read_completion(choice: dict[str, Any], request: Request, stops: set[int]) -> Completion:
    """Check an answer against its request.

    Raises:
        EngineError: no token ids, a prompt that was changed on the way, or an end that was not
            asked for.
    """
    ids, seen = choice.get("token_ids"), choice.get("prompt_token_ids")
    if not ids or seen is None:
        raise EngineError(
            "a server's answer has no token ids.",
            "A vLLM server that knows return_token_ids is needed: upgrade it.",
        )
    if len(seen) != len(request.prompt_ids):
        raise EngineError(
            f"a server read {len(seen)} prompt tokens where {len(request.prompt_ids)} were sent.",
            "Start it without anything that truncates prompts.",
        )
    stopped = ids[-1] in stops
    if not stopped and len(ids) < request.max_tokens:
        raise EngineError(
            f"a server ended a response by itself, at token id {ids[-1]} "
            f"(finish reason {choice.get('finish_reason')!r}).",
            "Start it with --generation-config vllm, or add the id with --stop-token-id.",
        )
    return Completion(np.array(ids, dtype=np.int32), "stop" if stopped else "length")
