"""What a trainer's own file really does, found out on made-up nodes: no model, no torch."""

from __future__ import annotations

from gradalign.lint.findings import LEVELS, Finding, Level, Rule
from gradalign.lint.formats import github, sarif
from gradalign.lint.linting import Hit, Lint, lint
from gradalign.lint.rules import RULES
from gradalign.lint.subject import is_file

__all__ = [
    "LEVELS", "RULES", "Finding", "Hit", "Level", "Lint", "Rule", "github", "is_file", "lint",
    "sarif",
]  # fmt: skip
