"""The one thing that is wanted of generation_config.json: which tokens end a response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradalign.errors import ModelError
from gradalign.models.checkpoints.failures import explained

_FILE = "generation_config.json"


def end_token_ids(
    name: str, path: str, config: Any, *, commit: str | None = None
) -> tuple[int, ...]:
    """Return the end tokens of a checkpoint's generation_config.json, else of its config.json.

    Only that entry is read: whatever else is wrong with the file has no part in a run.

    Args:
        name: the model as the user gave it.
        path: a folder or a hub id, from `resolve_model`.
        config: its configuration.
        commit: of the hub id.

    Raises:
        ModelError: a file that is no JSON table, or an entry that holds no token ids.
    """
    file = _find(name, path, commit)
    if file is None:
        text = config.get_text_config(decoder=True)
        entry = getattr(config, "eos_token_id", None) or getattr(text, "eos_token_id", None)
    else:
        with explained(name, _FILE):
            settings = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(settings, Mapping):
                raise ValueError(f"{_FILE} is no table")
        entry = settings.get("eos_token_id")
    ids = [] if entry is None else list(entry) if isinstance(entry, (list, tuple)) else [entry]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ModelError(
            f"model {name}: eos_token_id is {entry!r}, where one token id or several are wanted.",
            f"Correct {_FILE if file is not None else 'config.json'}.",
        )
    return tuple(ids)


def _find(name: str, path: str, commit: str | None) -> Path | None:
    folder = Path(path)
    if folder.is_dir():
        file = folder / _FILE
        return file if file.is_file() else None
    from transformers.utils import cached_file

    with explained(name, _FILE):
        found = cached_file(
            path,
            _FILE,
            revision=commit,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return None if found is None else Path(found)
