"""Contexts: the privileged information that a teacher is shown.

`get` makes one from its name, `parse_teacher` splits MODEL+CONTEXT.
"""

from __future__ import annotations

from gradalign.contexts import (  # noqa: F401  (they register)
    demos,
    other_answer,
    references,
    row_fields,
    sibling,
    system,
    template,
    wrong_answer,
)
from gradalign.contexts.base import Context, ContextFactory, SimpleContext, with_note, with_rule
from gradalign.contexts.registry import CONTEXTS, describe, get
from gradalign.contexts.teachers import CONTROL, TeacherSpec, parse_teacher

__all__ = [
    "CONTEXTS",
    "CONTROL",
    "Context",
    "ContextFactory",
    "SimpleContext",
    "TeacherSpec",
    "describe",
    "get",
    "parse_teacher",
    "with_note",
    "with_rule",
]
