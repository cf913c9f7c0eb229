"""Names to methods: our own, those of entry points, and `module:Class`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TypeVar

from gradalign.errors import UsageError
from gradalign.methods.base import Method
from gradalign.registry import Registry, load_object, parse_spec

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

    Raises:
        UnknownNameError: no such method; the message lists those there are.
        UsageError: an unknown option, or a value that it cannot have.
    """
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
