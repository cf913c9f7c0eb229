"""gradalign: before you spend GPU weeks on distillation, where would that update point?

    import gradalign
    report = gradalign.score(
        student="demo:student", teachers=["demo:strong", "demo:weak"], task="demo:addition",
        output_dir="runs/first", limit=8,
    )
    report.summary

Importing the package imports neither torch nor vllm nor datasets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradalign import errors

if TYPE_CHECKING:
    from gradalign.api import compare, diagnose, plan, rehearse, rescore, score
    from gradalign.checkup import TeacherCheck, check_teacher
    from gradalign.config import ScoreConfig
    from gradalign.methods.batch import NodeBatch
    from gradalign.planning import Plan
    from gradalign.report.report import Report, read_report

__all__ = [
    "NodeBatch",
    "Plan",
    "Report",
    "ScoreConfig",
    "TeacherCheck",
    "check_teacher",
    "compare",
    "diagnose",
    "errors",
    "plan",
    "read_report",
    "rehearse",
    "rescore",
    "score",
]

_HOMES = {
    "score": "gradalign.api",
    "plan": "gradalign.api",
    "diagnose": "gradalign.api",
    "rehearse": "gradalign.api",
    "rescore": "gradalign.api",
    "compare": "gradalign.api",
    "Plan": "gradalign.planning",
    "ScoreConfig": "gradalign.config",
    "NodeBatch": "gradalign.methods.batch",
    "Report": "gradalign.report.report",
    "read_report": "gradalign.report.report",
    "TeacherCheck": "gradalign.checkup",
    "check_teacher": "gradalign.checkup",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a submodule, when it is first used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in {"alignment", "contexts", "engines", "methods", "tasks", "verifiers"}:
        return importlib.import_module(f"gradalign.{name}")
    raise AttributeError(f"module 'gradalign' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
