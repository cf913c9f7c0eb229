"""What is wrong with settings, in words: what each must be, what it is, and what was meant."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gradalign.limits import MOST

ALIKE = 0.6
"""Names that resemble each other so much may be one name and its misspelling."""

SHOWN = 80
"""Characters of a value that are shown."""


BOUNDS = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
"""Words for the bounds of numbers, by what pydantic calls them."""


class Kind(NamedTuple):
    """A type without its decorations.

    Attributes:
        bare: the type, or what `Literal`, `list` and `dict` make of others.
        bounds: the numbers that it must be between, each with its word of `BOUNDS`.
    """

    bare: Any
    bounds: tuple[tuple[str, float], ...]


def kind_of(annotation: Any, bounds: Sequence[Any] = ()) -> Kind:
    """Return the type behind Annotated and "or None", with its bounds.

    Args:
        annotation: a setting's type.
        bounds: found around it, anything that is no bound among them.
    """
    found = [
        bound
        for item in bounds
        for bound in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0], [*found, *inner[1:]])
    if origin in (Union, types.UnionType):
        (first, *_) = [item for item in inner if item is not type(None)]
        return kind_of(first, found)
    numbers = [
        (word, number)
        for item in found
        for word in BOUNDS
        if (number := getattr(item, word, None)) is not None
    ]
    return Kind(annotation, tuple(numbers))


def must_be(kind: Kind, *, whole_range: bool = False) -> str:
    """Say what a value must be, such as "a whole number, 1 or more".

    Args:
        kind: the type and its bounds.
        whole_range: also tell the bound that only keeps numbers inside 32 bits.
    """
    bare, bounds = kind
    origin = get_origin(bare)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    if origin is list:
        return f"a list; each item is {must_be(kind_of(get_args(bare)[0]))}"
    if origin is dict:
        return "a mapping of names to values"
    if bare is bool:
        return "true or false"
    if bare is str:
        return "a text"
    name = "a whole number" if bare is int else "a number"
    said = [
        BOUNDS[word].format(number)
        for word, number in bounds
        if whole_range or word in {"ge", "gt"} or number < MOST
    ]
    return f"{name}, {' and '.join(said)}" if said else name


def in_words(
    errors: Iterable[Mapping[str, Any]],
    fields: Mapping[str, FieldInfo],
    flags: Mapping[str, str],
) -> str:
    """Say what is wrong with settings, by the names of their flags.

    Args:
        errors: as pydantic lists them.
        fields: the settings.
        flags: of each setting its flag.
    """
    items = list(errors)
    missing = [flags[str(item["loc"][0])] for item in items if item["type"] == "missing"]
    parts = []
    if missing:
        parts.append(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    for item in items:
        if item["type"] == "missing":
            continue
        name, *inside = item["loc"] or ("",)
        if item["type"] == "extra_forbidden":
            parts.append(unknown(str(name), spellings(fields, flags)))
        elif item["type"] == "value_error":  # said by us
            why = item["msg"].removeprefix("Value error, ")
            parts.append(f"{flags[name]}: {why} (got {shorten(item['input'])})")
        else:
            parts.append(f"{flags[name]}{_wrong(item, fields[name], inside)}")
    return "; ".join(parts)


def _wrong(item: Mapping[str, Any], field: FieldInfo, inside: Sequence[Any]) -> str:
    """Say what a value must be, and what it is."""
    kind, value, where = kind_of(field.annotation, field.metadata), item["input"], ""
    if inside and get_origin(kind.bare) is list:
        where, kind = f", item {inside[0] + 1}", kind_of(get_args(kind.bare)[0])
    elif inside and "[key]" in inside:
        return f" must have texts as names (got {shorten(value)})"
    elif inside:
        where, kind = f", value of {inside[0]!r}", kind_of(get_args(kind.bare)[1])
    if value is None:
        return f"{where} needs a value"
    said = must_be(kind, whole_range=item["type"].startswith("less_than"))
    if item["type"] == "finite_number":
        said = "a finite number"
    hint = ""
    if kind.bare is str and isinstance(value, int | float):
        hint = "; write it in quotes"
    elif get_origin(kind.bare) is Literal:
        hint = _meant(str(value), map(str, get_args(kind.bare)), "; did you mean {}?")
    return f"{where} must be {said} (got {shorten(value)}{hint})"


def spellings(fields: Iterable[str], flags: Mapping[str, str]) -> dict[str, str]:
    """Return every name of a setting, with underscores: its own, and its flag's."""
    return {
        spelling: name
        for name in fields
        for spelling in (name, flags[name].removeprefix("--").replace("-", "_"))
    }


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that there is no such setting, and which one may have been meant."""
    plain = name.lower().removeprefix("--").replace("-", "_")
    dashes = "-" in name
    names = [spelling.replace("_", "-") if dashes else spelling for spelling in known]
    asked = plain.replace("_", "-") if dashes else plain
    return f"there is no setting {name!r}{_meant(asked, names, '; did you mean {}?')}"


def _meant(name: str, known: Iterable[str], form: str) -> str:
    alike = difflib.get_close_matches(name, list(known), n=1, cutoff=ALIKE)
    return form.format(alike[0]) if alike else ""


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def takes_truth(field: FieldInfo) -> bool:
    """Whether true and false may be values of a setting: a number is neither of them."""
    bare = kind_of(field.annotation).bare
    if get_origin(bare) is list:
        bare = kind_of(get_args(bare)[0]).bare
    return bare not in (int, float)


def shorten(value: object) -> str:
    """Return a value as it would be written, cut to what can be taken in."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
