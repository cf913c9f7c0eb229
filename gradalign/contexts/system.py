"""The context `system`: a rule that is the same for all questions."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.contexts.base import Context, SimpleContext, digest, read_text, with_rule
from gradalign.contexts.registry import CONTEXTS
from gradalign.errors import UsageError
from gradalign.questions import Question


@CONTEXTS.register("system")
def system(argument: str, questions: Sequence[Question] | None) -> Context:
    """Show a rule of the user's own, `system:TEXT` or `system:@FILE`."""
    rule = read_text(argument, "context system").strip()
    if not rule:
        raise UsageError("context system has no text.", "Write system:TEXT or system:@FILE.")
    return SimpleContext(
        f"system:{argument}",
        lambda question, attempt, others: with_rule(question.prompt, rule),
        shared=True,
        fingerprint=digest(rule),
    )
