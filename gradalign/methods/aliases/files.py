"""Settings out of a trainer's own file: YAML, JSON, TOML, or the arguments of a shell script."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gradalign.errors import UsageError
from gradalign.registry import parse_value

_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)", flags=re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")
_OVERRIDE = re.compile(r"[+~]{0,2}([A-Za-z_][\w.@/-]*)=(.*)", flags=re.DOTALL)


def read_settings(path: str) -> dict[str, Any]:
    """Return every setting of a file under its whole dotted name, dashes as underscores.

    Of a shell script that is `--key value`, `--key=value`, `--flag`, `a.b.key=value` and the
    variables it sets, whose values are filled in.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}.", "Give the trainer's own file.") from error
    kind = Path(path).suffix.lower()
    if kind in (".sh", ".bash", ""):
        return dict(_of_script(text, path))
    try:
        if kind == ".toml":
            found: object = tomllib.loads(text)
        else:
            found = json.loads(text) if kind == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path} as {kind[1:].upper()}: {error}.",
            "It may be YAML, JSON, TOML or a shell script.",
        ) from error
    if not isinstance(found, Mapping):
        raise UsageError(f"{path} holds no settings.", "It must be a mapping of keys to values.")
    return dict(_flat(found))


def _flat(values: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{before}{key}".replace("-", "_")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _of_script(text: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a script's variables and arguments; what comes later counts."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a piece of a string over several lines, or another language
        words = [_filled(word, variables) for word in words]
        for number, word in enumerate(words):
            following = words[number + 1] if number + 1 < len(words) else None
            leads = all(
                _ASSIGNED.fullmatch(earlier) for earlier in words[:number] if earlier != "export"
            )
            if (found := _ASSIGNED.fullmatch(word)) and leads:
                variables[found[1]] = found[2]
                yield found[1].lower(), parse_value(found[2])
            elif word.startswith("--"):
                yield _argument(word[2:], following)
            elif found := _OVERRIDE.fullmatch(word):
                yield found[1].replace("-", "_"), parse_value(found[2])


def _argument(word: str, following: str | None) -> tuple[str, Any]:
    key, separator, value = word.partition("=")
    if not separator:
        if following is None or (following.startswith("-") and not _is_number(following)):
            return key.replace("-", "_"), True
        value = following
    return key.replace("-", "_"), parse_value(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _filled(word: str, variables: Mapping[str, str]) -> str:
    """Put the values of variables into a word; one that is not set has its default, or stays."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return variables.get(name, match[2] if match[2] is not None else match[0])

    return _VARIABLE.sub(value, word).replace('"', "")
