"""Why a distillation update points where it does: the mechanisms, measured per position.

One module per mechanism, with its arrays, its table, its part of the summary and its advice. A
new one is a module with a `DIAGNOSTIC`, and its name in `gradalign.config.DIAGNOSTICS`.

| name | mechanism | source |
| --- | --- | --- |
| overlap | do the two models look at the same tokens | arXiv 2604.13016 |
| topk | what restricting the loss to top tokens does to its gradient | arXiv 2605.11182 |
| contexts | do the contexts of one model contradict each other | arXiv 2605.11182 |
| horizon | token-level against sequence-level, and how far to trust a teacher | arXiv 2603.25562 |
| gram | do teachers contradict each other, which for which question, and what of a mixture | own |
| predictors | does anything cheap predict alignment | own |
| rivals | what else is said to predict which teacher trains well | several, named there |
| prefix | can the teacher go on from what the student began | arXiv 2605.11182 |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gradalign.config import DIAGNOSTICS, chosen_diagnostics

if TYPE_CHECKING:
    from gradalign.diagnostics.base import Diagnostic

NAMES = DIAGNOSTICS
"""Every diagnostic, in the order in which they are computed."""

chosen = chosen_diagnostics


def load(name: str) -> Diagnostic:
    """Return a diagnostic; each is a module of this package."""
    module = importlib.import_module(f"gradalign.diagnostics.{name}")
    diagnostic: Diagnostic = module.DIAGNOSTIC
    return diagnostic
