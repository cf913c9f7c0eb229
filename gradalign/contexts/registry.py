"""Names to contexts: our own, those of entry points, and those that rows give."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from gradalign.contexts.base import Context, ContextFactory
from gradalign.errors import TaskError, UnknownNameError
from gradalign.questions import Attempt, Prompt, Question
from gradalign.registry import Registry

CONTEXTS: Registry[ContextFactory] = Registry("context", "gradalign.contexts")

_SHAPES = {"demos": "demos:K", "system": "system:TEXT|@FILE", "template": "template:TEXT|@FILE"}
_SHARED = ("none", "system", "demos", "reference-free")
"""Contexts that show nothing of the question itself."""


def get(name: str, questions: Sequence[Question] | None = None) -> Context:
    """Make a context from its name.

    A prompt that a row gives under this name in `contexts` goes before the built-in one.

    Args:
        name: as `describe` lists them, such as `answer`, `demos:4` or `system:@FILE`; a plugin's,
            or one that the rows give.
        questions: all questions of the run. Without them `demos:K` and `other-answer` cannot be
            made, and a name that is not built in is only known to be wrong when a row lacks it.

    Raises:
        UnknownNameError: neither built in nor in any row.
        UsageError: an argument that cannot be used.
    """
    base, _, argument = name.partition(":")
    in_rows = {key for question in questions or () for key in question.contexts}
    if base in CONTEXTS and not (name in in_rows and name != base):
        context = CONTEXTS.get(base)(argument, questions)
        return _RowFirst(name, context)
    if questions is None or name in in_rows:
        return _RowFirst(name, None)
    raise UnknownNameError(
        f"unknown context {name!r}.",
        f"Built in: {', '.join(_SHAPES.get(item, item) for item in CONTEXTS.names())}. In the "
        f"task's rows: {', '.join(sorted(in_rows)) or 'none'}.",
    )


def describe() -> list[dict[str, str]]:
    """Return a record per context: name, description, kind (shared or instance-specific)."""
    records = []
    for name, factory in CONTEXTS.items():
        text = inspect.getdoc(factory) or ""
        kind = "shared" if name in _SHARED else "instance-specific"
        records.append(
            {
                "name": _SHAPES.get(name, name),
                "kind": "either" if name == "template" else kind,
                "description": text.partition("\n")[0].rstrip("."),
            }
        )
    return records


@dataclass(frozen=True)
class _RowFirst:
    """A context that takes a row's own prompt where there is one, and else another's."""

    name: str
    fallback: Context | None

    @property
    def shared(self) -> bool:
        return self.fallback is not None and self.fallback.shared

    @property
    def needs_attempts(self) -> bool:
        return self.fallback is not None and self.fallback.needs_attempts

    @property
    def description(self) -> str:
        return self.fallback.description if self.fallback else "given by the rows"

    @property
    def fingerprint(self) -> str:
        return self.fallback.fingerprint if self.fallback else "rows"

    def prompt(
        self, question: Question, attempt: Attempt | None, others: Sequence[Attempt]
    ) -> Prompt | None:
        if self.name in question.contexts:
            return question.contexts[self.name]
        self.check(question)
        assert self.fallback is not None
        return self.fallback.prompt(question, attempt, others)

    def check(self, question: Question) -> None:
        if self.name in question.contexts:
            return
        if self.fallback is None:
            raise TaskError(
                f"question {question.id!r} gives no prompt for the context {self.name!r}.",
                f"Add it to the row's `contexts`, or use one of {', '.join(CONTEXTS.names())}.",
            )
        self.fallback.check(question)
