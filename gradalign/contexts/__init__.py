"""Contexts: the privileged information that a teacher is shown.

`get` makes one from its name, `parse_teacher` splits MODEL+CONTEXT, `parse_delta` the difference
of two.
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
from gradalign.contexts.deltas import DeltaSpec, is_delta, models_read, parse_any, parse_delta
from gradalign.contexts.registry import CONTEXTS, describe, get
from gradalign.contexts.teachers import (
    CONTROL,
    FALSE,
    REFERENCE_FREE,
    SHARED,
    TeacherSpec,
    controls_beside,
    parse_teacher,
)

__all__ = [
    "CONTEXTS",
    "CONTROL",
    "FALSE",
    "REFERENCE_FREE",
    "SHARED",
    "Context",
    "ContextFactory",
    "DeltaSpec",
    "SimpleContext",
    "TeacherSpec",
    "controls_beside",
    "describe",
    "get",
    "is_delta",
    "models_read",
    "parse_any",
    "parse_delta",
    "parse_teacher",
    "with_note",
    "with_rule",
]
