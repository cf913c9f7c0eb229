"""Verifiers: a response and its question to a reward in [0, 1].

`get` makes one from its spec; `VerifierPool` runs one in processes with a hard time limit.
"""

from __future__ import annotations

from typing import Any

from gradalign.errors import UnknownNameError, UsageError
from gradalign.registry import load_object
from gradalign.verifiers import builtin, choice, mathematics, procedural  # noqa: F401  (they register)
from gradalign.verifiers.base import VERIFIERS, FunctionVerifier, Verifier, VerifierFactory
from gradalign.verifiers.judge import Verdict
from gradalign.verifiers.pool import VerifierPool

__all__ = [
    "VERIFIERS",
    "FunctionVerifier",
    "Verdict",
    "Verifier",
    "VerifierFactory",
    "VerifierPool",
    "get",
]


def get(spec: str) -> Verifier:
    """Make a verifier: `exact`, `regex:PATTERN`, `choice`, `math`, or `module:function`.

    A function of the user's own takes (text, question) and returns a number in [0, 1]. It is
    asked to do without an answer in the row unless it has an attribute `needs_answer = True`.

    Raises:
        UnknownNameError: no such verifier, module or function.
        UsageError: a spec that cannot be used.
        MissingDependencyError: the verifier's package is not installed.
    """
    name, separator, argument = spec.partition(":")
    if name in VERIFIERS:
        return VERIFIERS.get(name)(argument)
    if not separator:
        raise UnknownNameError(
            f"unknown verifier {spec!r}.",
            f"Known: {', '.join(VERIFIERS.names())}, and module:function for your own.",
        )
    return wrap(load_object(spec, "verifier"), spec)


def wrap(item: Any, spec: str) -> Verifier:
    """Make a verifier of what a `module:function` spec named.

    Raises:
        UsageError: it cannot be called.
    """
    if not callable(item):
        raise UsageError(f"verifier {spec!r} cannot be called.", "Name a function.")
    check = getattr(item, "check", None)
    return FunctionVerifier(
        item,
        needs_answer=bool(getattr(item, "needs_answer", False)),
        check_function=check if callable(check) else None,
    )
