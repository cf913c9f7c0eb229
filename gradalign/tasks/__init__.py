"""Tasks: where questions come from.

A task's name is one of `TASKS` with what it takes after a colon (`demo:addition`,
`gsm8k:split=train`, `reasoning_gym:chain_sum`), the path of a .jsonl, .json or .parquet file,
or `module:Class` for one of the user's own.
"""

from __future__ import annotations

from gradalign.questions import Attempt, Message, Prompt, Question
from gradalign.tasks import benchmarks, demo, reasoning_gym  # noqa: F401  (they register)
from gradalign.tasks.base import Task, TaskSource
from gradalign.tasks.registry import TASKS, describe, load_task

__all__ = [
    "TASKS",
    "Attempt",
    "Message",
    "Prompt",
    "Question",
    "Task",
    "TaskSource",
    "describe",
    "load_task",
]
