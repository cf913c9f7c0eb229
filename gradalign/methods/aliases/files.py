"""Settings out of a trainer's own file: YAML, JSON, TOML, or the arguments of a shell script."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gradalign.errors import UsageError
from gradalign.registry import parse_value

STANDARD_INPUT = "-"
LARGEST = 1_000_000
"""Bytes that a file may have; trainers' files have some thousands."""

MOST = 20_000
"""Settings that a file may have; a few lines of YAML can stand for billions."""

_ASSIGNED = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\+?=(.*)", flags=re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+))")
_OVERRIDE = re.compile(r"[+~]{0,2}([A-Za-z_][\w.@/-]*)=(.*)", flags=re.DOTALL)


def read_settings(path: str) -> dict[str, Any]:
    """Return every setting of a file under its whole dotted name, dashes as underscores.

    Of a shell script that is `--key value`, `--key=value`, `--flag`, `a.b.key=value` and the
    variables it sets, whose values are filled in.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    return settings_of(read_text(path), path)


def read_text(path: str) -> str:
    """Return the text of a trainer's own file; of `-`, standard input.

    Raises:
        UsageError: there is no such file, it is empty, no text, or too large for settings.
    """
    shown = "standard input" if path == STANDARD_INPUT else path
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(LARGEST + 1)
        text = content[:LARGEST].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {shown}: {error}.", "Give the trainer's own file."
        ) from error
    if len(content) > LARGEST:
        raise UsageError(
            f"{shown} has more than {LARGEST // 1_000_000} MB.", "A trainer's settings are short."
        )
    if not text.strip() or "\0" in text:
        what = "no text" if text.strip() else "empty"
        raise UsageError(f"{shown} is {what}.", "Give the trainer's own file.")
    return text


def settings_of(text: str, path: str) -> dict[str, Any]:
    """Return the settings in the text of a file, as `read_settings` does.

    Args:
        text: what the file holds.
        path: of the file; its suffix tells what it is, and none a script.

    Raises:
        UsageError: it cannot be read as that, or holds no settings.
    """
    kind = Path(path).suffix.lower()
    if kind in (".sh", ".bash", ".slurm", ".sbatch", ""):
        return dict(_of_script(text))
    try:
        if kind == ".toml":
            found: object = tomllib.loads(text)
        else:
            found = json.loads(text) if kind == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path} as {kind[1:].upper()}: {error}.",
            "It may be YAML, JSON, TOML or a shell script.",
        ) from error
    if not isinstance(found, Mapping):
        raise UsageError(f"{path} holds no settings.", "It must be a mapping of keys to values.")
    settings: dict[str, Any] = {}
    for name, value in _flat(found):
        settings[name] = value
        if len(settings) > MOST:
            raise UsageError(f"{path} has more than {MOST:,} settings.", "Give one run's own file.")
    return settings


def overrides_of(words: Iterable[str]) -> dict[str, Any]:
    """Return settings given as KEY=VALUE, the way Hydra takes them.

    Raises:
        UsageError: a word that is none.
    """
    settings = {}
    for word in words:
        found = _OVERRIDE.fullmatch(word)
        if found is None:
            raise UsageError(f"{word!r} is no file and no KEY=VALUE.", "Give the trainer's file.")
        settings[found[1].replace("-", "_")] = parse_value(found[2])
    return settings


def _flat(values: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their dotted names; those in a list of sections have its number too."""
    for key, value in values.items():
        name = f"{before}{key}".replace("-", "_")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from _flat(item, f"{name}.{number}.")
        else:
            yield name, value


def _of_script(text: str) -> Iterator[tuple[str, Any]]:
    """Yield a script's variables and arguments; what comes later counts."""
    variables: dict[str, str] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        yield from _of_words(_words(line), variables)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []  # a piece of a string over several lines, or another language


def _of_words(words: list[str], variables: dict[str, str]) -> Iterator[tuple[str, Any]]:
    words = [_filled(word, variables) for word in words]
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else None
        leads = all(
            _ASSIGNED.fullmatch(earlier) for earlier in words[:number] if earlier != "export"
        )
        if (found := _ASSIGNED.fullmatch(word)) and leads:
            variables[found[1]] = found[2]
            yield found[1].lower(), parse_value(found[2])
            inner = _words(found[2])
            flags = any(one.startswith("--") for one in inner)
            if flags or (len(inner) > 1 and any("=" in one for one in inner)):
                yield from _of_words(["", *inner], {**variables})  # arguments that are kept in it
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
