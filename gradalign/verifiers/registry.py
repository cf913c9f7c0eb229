"""Names to verifiers: our own, those of entry points, and `module:function`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gradalign.errors import GradalignError, TaskError, UnknownNameError, UsageError, VerifierError
from gradalign.questions import Question
from gradalign.registry import Registry, load_object
from gradalign.verifiers.base import FunctionVerifier, Verifier, VerifierFactory
from gradalign.verifiers.process.loader import try_to_load

VERIFIERS: Registry[VerifierFactory] = Registry("verifier", "gradalign.verifiers")


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
        try:
            return VERIFIERS.get(name)(argument)
        except (GradalignError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a plugin may raise anything, or exit
            raise UsageError(
                f"verifier {spec!r} cannot be made: {type(error).__name__}: {error}.",
                "Mend the plugin.",
            ) from error
    if not separator:
        raise UnknownNameError(
            f"unknown verifier {spec!r}.",
            f"Known: {', '.join(VERIFIERS.names())}, and module:function for your own.",
        )
    return wrap(load_object(spec, "verifier"), spec)


def get_checked(spec: str) -> Verifier:
    """Make a verifier as `get` does; one of the user's own is first loaded as a pool will load it.

    Raises:
        VerifierError: it cannot be loaded in a process of its own, or ends that process.
        UsageError: as `get` does.
    """
    name, separator, _ = spec.partition(":")
    trouble = try_to_load(spec) if separator and name not in VERIFIERS else None
    verifier = get(spec)
    if trouble is not None:
        raise trouble
    return verifier


def wrap(item: Any, spec: str) -> Verifier:
    """Make a verifier of what a `module:function` spec named.

    Raises:
        UsageError: it cannot be called.
        VerifierError: it does not take two arguments, or is asynchronous.
    """
    if not callable(item):
        raise UsageError(f"verifier {spec!r} cannot be called.", "Name a function.")
    _check_signature(item, spec)
    check = getattr(item, "check", None)
    return FunctionVerifier(
        item,
        needs_answer=bool(getattr(item, "needs_answer", False)),
        check_function=_safe_check(check, spec) if callable(check) else None,
    )


def _safe_check(check: Callable[[Question], None], spec: str) -> Callable[[Question], None]:
    """Turn what a check of the user's own raises into a TaskError that names the question."""

    def checked(question: Question) -> None:
        try:
            check(question)
        except GradalignError:
            raise
        except Exception as error:
            raise TaskError(
                f"question {question.id!r} does not suit verifier {spec}: "
                f"{type(error).__name__}: {error}.",
                "Repair the row or drop it.",
            ) from error

    return checked


def _check_signature(item: Any, spec: str) -> None:
    """Refuse what would raise, or return no number, at every call."""
    wrapped = (
        "Write a function of (text, question) that calls it and returns a number: "
        "`question.answer` is the row's answer, `question.metadata` its other columns."
    )
    try:
        inspect.signature(item).bind("", None)
    except TypeError as error:
        raise VerifierError(
            f"verifier {spec} cannot be called with (text, question): TypeError: {error}.", wrapped
        ) from error
    except ValueError:
        pass  # a function of C that does not tell: its first call will
    if inspect.isclass(item):
        raise VerifierError(f"verifier {spec} is a class.", wrapped)
    call = item if inspect.isroutine(item) else type(item).__call__
    if inspect.iscoroutinefunction(call) or inspect.isgeneratorfunction(call):
        raise VerifierError(f"verifier {spec} does not return a number when called.", wrapped)
