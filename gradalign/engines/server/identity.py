"""What servers say that they serve, to know whether it is still the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from gradalign.engines.server.http import ServerAddress, parse_addresses

ASK_SECONDS = 10.0


def served_models(urls: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return what each server loaded the model from, as far as it tells.

    A server that does not answer is left out: whoever needs it reports that.

    Args:
        urls: base URLs.
        names: under which the model may be served, or from which it may be loaded.

    Returns:
        URL to `NAME from ROOT`.
    """
    found = {}
    for address in parse_addresses(urls) if urls else ():
        entries = [entry for entry in _entries(address) if _is_meant(entry, names)]
        if entries:
            found[address.url] = "; ".join(
                sorted(f"{entry.get('id')} from {entry.get('root')}" for entry in entries)
            )
    return found


def _entries(address: ServerAddress) -> list[dict[str, Any]]:
    try:
        with httpx.Client(**address.client_options(ASK_SECONDS)) as client:
            response = client.get(f"{address.url}/models")
            response.raise_for_status()
            return [entry for entry in response.json()["data"] if isinstance(entry, dict)]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []


def _is_meant(entry: dict[str, Any], names: Sequence[str]) -> bool:
    wanted = {_plain(name) for name in names}
    return bool({_plain(str(entry.get(key) or "")) for key in ("id", "root")} & wanted)


def _plain(name: str) -> str:
    return os.path.realpath(name) if name and Path(name).is_dir() else name
