"""Addresses, keys and answers of OpenAI-compatible servers: what is retried and what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from gradalign.errors import EngineError, GradalignError, UsageError
from gradalign.models.numbers import NotNumbersError

KEY_VARIABLES = ("GRADALIGN_API_KEY", "OPENAI_API_KEY")

CONNECT_SECONDS = 5.0

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_BUSY = {408, 425, 429, 503}


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is, and the key that it wants.

    Attributes:
        url: scheme, host, port and path up to and including `/v1`.
        key: sent as a bearer token; no part of `repr`, so that it gets into no log.
    """

    url: str
    key: str | None = field(default=None, repr=False)

    def client_options(self, timeout_seconds: float) -> dict[str, Any]:
        """Return the arguments of an httpx client for this server."""
        host = urlsplit(self.url).hostname or ""
        return {
            "headers": {"Authorization": f"Bearer {self.key}"} if self.key else {},
            "timeout": httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            # A proxy of the environment cannot reach this machine's own loopback.
            "trust_env": host not in _LOOPBACK,
        }


def parse_addresses(urls: Sequence[str]) -> list[ServerAddress]:
    """Check and normalise base URLs, and give each the key from the environment.

    Raises:
        UsageError: none, one twice, or one that is not an http(s) URL without secrets in it.
    """
    key = next((value for name in KEY_VARIABLES if (value := os.environ.get(name))), None)
    addresses: list[ServerAddress] = []
    for text in urls:
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.username or parts.password or parts.query or parts.fragment:
            # The message must not repeat what may be a password.
            raise UsageError(
                f"the base URL of {parts.hostname} holds more than scheme, host, port and path.",
                f"Give the key in the environment variable {KEY_VARIABLES[0]}.",
            )
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(
                f"base URL {text!r} is not of the form http://HOST:PORT.",
                "Give the address that the server listens on.",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        path = parts.path.rstrip("/")
        root = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"
        url = root if path.endswith("/v1") else root + "/v1"
        if any(address.url == url for address in addresses):
            raise UsageError(f"base URL {url} is given twice.")
        addresses.append(ServerAddress(url, key))
    if not addresses:
        raise UsageError("engine server needs --base-url.", "Give it once for every server.")
    return addresses


class ServerUnavailableError(Exception):
    """A server that gave no usable answer, but may yet.

    Attributes:
        kind: `down` (no connection), `busy` (it asked to come back), `failed` (it answered with
            a 5xx or not in time: the request itself may be why).
        wait_seconds: how long it asked to be left alone.
    """

    def __init__(
        self, kind: Literal["down", "busy", "failed"], reason: str, wait_seconds: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait_seconds = wait_seconds


def unavailable(error: httpx.TransportError) -> ServerUnavailableError:
    """Turn a failed exchange into what it says about the server."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, httpx.ReadTimeout):
        return ServerUnavailableError("failed", f"no answer in time ({text})")
    if isinstance(error, httpx.ConnectTimeout):
        return ServerUnavailableError("down", f"no connection in {CONNECT_SECONDS:.0f} s")
    return ServerUnavailableError("down", text)


def check_status(response: httpx.Response, address: ServerAddress) -> None:
    """Raise what an answer's status means.

    Raises:
        ServerUnavailableError: worth another try, here or at another server.
        UsageError: the key is not accepted.
        EngineError: the server refuses the request itself.
        NotNumbersError: its answer would have had a NaN.
    """
    status = response.status_code
    if status < 300:
        return
    if status in _BUSY:
        raise ServerUnavailableError("busy", f"HTTP {status}", _retry_after(response.headers))
    if status >= 500 and "not JSON compliant" in response.text:
        raise NotNumbersError  # NaN, which JSON does not have
    if status >= 500:
        raise ServerUnavailableError("failed", f"HTTP {status}: {_message(response)}")
    raise refused(response, address)


def refused(response: httpx.Response, address: ServerAddress) -> GradalignError:
    """Return the error of an answer that will not change by asking again."""
    status = response.status_code
    if status in {401, 403}:
        had = "the key that was sent is not accepted" if address.key else "it wants a key"
        return UsageError(
            f"server {address.url} answered HTTP {status}: {had}.",
            f"Set {' or '.join(KEY_VARIABLES)} to the server's API key.",
        )
    if status in {301, 302, 307, 308}:
        return UsageError(
            f"server {address.url} answered HTTP {status}: it is somewhere else.",
            "Give the final address as --base-url; keys are not sent along redirections.",
        )
    return EngineError(
        f"server {address.url} answered HTTP {status}: {_message(response)}",
        "Finished shards are kept. Is it a vLLM server, of a version that knows return_token_ids?",
    )


def _message(response: httpx.Response) -> str:
    """Return the server's own words, as far as they are short."""
    text = response.text.strip()
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if isinstance(content, dict):
        error = content.get("error", content)
        found = error.get("message") if isinstance(error, dict) else error
        text = str(found) if found else text
    return text if len(text) <= 400 else text[:397] + "..."


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return max(0.0, min(float(headers.get("retry-after", "1")), 60.0))
    except ValueError:  # the other form of the header, a date, is not used by such servers
        return 1.0
