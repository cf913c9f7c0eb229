"""Why a distillation update points where it does: the mechanisms, measured per position.

One module per mechanism, with its arrays, its table, its part of the summary and its advice. A
new one is a module with a `DIAGNOSTIC`, and its name in `NAMES`.

| name | mechanism | source |
| --- | --- | --- |
| overlap | do the two models look at the same tokens | arXiv 2604.13016 |
| topk | what restricting the loss to top tokens does to its gradient | arXiv 2605.11182 |
| contexts | do the contexts of one model contradict each other | arXiv 2605.11182 |
| horizon | token-level against sequence-level, and how far to trust a teacher | arXiv 2603.25562 |
| predictors | does anything cheap predict alignment | own |
| prefix | can the teacher go on from what the student began | arXiv 2605.11182 |
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradalign.diagnostics.base import Diagnostic

NAMES = ("overlap", "topk", "contexts", "horizon", "predictors", "prefix")
"""Every diagnostic, in the order in which they are computed."""

NEED_SAMPLING = ("prefix",)
"""Those that sample, and are therefore done only when they are asked for."""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the diagnostics that a list of names stands for, in order.

    Args:
        names: names, or "all", or "none"; nothing stands for all that need no sampling.

    Raises:
        ValueError: a name that is not known, or "none" beside another.
    """
    unknown = sorted(set(names) - {*NAMES, "all", "none"})
    if unknown:
        raise ValueError(f"unknown {unknown[0]!r}; known: all, none, {', '.join(NAMES)}")
    if "none" in names:
        if set(names) != {"none"}:
            raise ValueError("none excludes every other name")
        return ()
    if "all" in names:
        return NAMES
    if not names:
        return tuple(name for name in NAMES if name not in NEED_SAMPLING)
    return tuple(name for name in NAMES if name in names)


def load(name: str) -> Diagnostic:
    """Return a diagnostic; each is a module of this package."""
    module = importlib.import_module(f"gradalign.diagnostics.{name}")
    diagnostic: Diagnostic = module.DIAGNOSTIC
    return diagnostic
