"""Names to methods: our own, those of entry points, and `module:Class`; and what they are."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable
from typing import TypeVar

from gradalign.errors import UsageError
from gradalign.methods.aliases import spelled
from gradalign.methods.base import Method
from gradalign.methods.mixture import mixture_of
from gradalign.registry import Registry, load_object, parse_spec

CONFIG = "config:"
REGISTRY: Registry[type[Method]] = Registry("method", "gradalign.methods")
M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Return a decorator that files a Method subclass under `name`."""

    def add(cls: M) -> M:
        cls.registered_name = name
        REGISTRY.register(name)(cls)
        return cls

    return add


def get(spec: str) -> Method:
    """Build a method from `name:key=value,...` or `module:Class:key=value,...`.

    `A+NUMBER*B` is a sum of methods, `mix:best` the best of two (see `gradalign.methods.mixture`),
    and `config:trainer=NAME,path=FILE` what a trainer's own file sets.

    Raises:
        UnknownNameError: no such method or trainer; the message lists those there are.
        UsageError: an unknown option, or a value that it cannot have.
    """
    if spec.startswith(CONFIG):
        spec = spelled(parse_spec(spec)[1])
    return mixture_of(spec, _single) or _single(spec)


def spelled_out(specs: Iterable[str]) -> list[str]:
    """Return methods with what trainers' own files set in place of `config:...`.

    A run keeps that: its methods stay the same when the file changes or goes.

    Raises:
        UsageError: as for `get`.
    """
    return [get(spec).spec if spec.startswith(CONFIG) else spec for spec in specs]


def _single(spec: str) -> Method:
    name, cls, options = _locate(spec)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise UsageError(
            f"{name!r} is not a method: it must be a subclass of gradalign.methods.Method."
        )
    return cls.parse(options, name)


def names() -> list[str]:
    """Return the names of all registered methods, sorted; plugins included."""
    return REGISTRY.names()


def method_class(name: str) -> type[Method]:
    """Return the class behind a registered name or `module:Class`, for listings."""
    return type(get(name))


def _locate(spec: str) -> tuple[str, object, dict[str, str]]:
    module, _, rest = spec.partition(":")
    attribute, _, options = rest.partition(":")
    if (
        module not in REGISTRY
        and attribute
        and "=" not in attribute
        and all(part.isidentifier() for part in module.split("."))
        and _is_module(module)
    ):
        reference = f"{module}:{attribute}"
        _, values = parse_spec(f"{attribute}:{options}")
        return reference, load_object(reference, "method"), values
    name, values = parse_spec(spec)
    return name, REGISTRY.get(name), values


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def describe() -> list[dict[str, str]]:
    """Return a record per method: name, formula, source, options with their defaults."""
    records = []
    for name in names():
        kind = method_class(name)
        records.append(
            {
                "name": name,
                "ascent on the logits": kind.formula,
                "source": kind.source,
                "options": ", ".join(f"{item.name}={item.default}" for item in kind.options()),
            }
        )
    return records


def explain(spec: str) -> str:
    """Return everything about one method, with the options as given.

    Raises:
        UnknownNameError: no such method.
        UsageError: an option that it does not have or cannot take.
    """
    method = get(spec)
    lines = [
        method.full_spec,
        "",
        inspect.cleandoc(type(method).__doc__ or ""),
        "",
        f"ascent:  {method.formula}",
        f"source:  {method.source}",
        f"needs:   {', '.join(sorted(method.needs)) or 'nothing but the student'}",
    ]
    options = method.options()
    if options:
        lines += ["", "options:"]
    for item in options:
        choices = f" ({'|'.join(item.choices)})" if item.choices else f" ({item.type})"
        value = getattr(method, item.name)
        lines.append(f"  {item.name}={value}{choices}: {item.help} Default: {item.default}.")
    return "\n".join(lines)
