"""What is planned and afterwards counted, under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figures:
    """Counts of a run.

    Attributes:
        questions: how many there are.
        spines: sampled responses.
        spine_prompt_tokens: prompt tokens of their requests, before any sharing of prefixes.
        spine_tokens: tokens generated for them.
        nodes: chosen positions.
        branches: candidates, over all nodes.
        continuations: targeted rollouts.
        continuation_prompt_tokens: prompt, spine and candidate tokens that these start from,
            before any sharing of prefixes.
        continuation_tokens: tokens generated for them.
        student_passes: sequences that the student reads teacher-forced.
        teacher_passes: sequences that teachers read, over all teachers.
        forced_tokens: tokens of all those sequences, prompts included.
        scored_tokens: continuation tokens scored by student and teachers, if a method or a
            diagnostic looks at them.
        disk_bytes: size of the run's folder.
        prefix_continuations: responses sampled by the diagnostic `prefix`, if it is asked for.
        prefix_tokens: tokens generated for them.
        teacher_answers: questions that teachers answer by themselves (--teacher-accuracy).
        teacher_answer_tokens: tokens generated for them.
    """

    questions: int
    spines: int
    spine_prompt_tokens: int = 0
    spine_tokens: int = 0
    nodes: int = 0
    branches: int = 0
    continuations: int = 0
    continuation_prompt_tokens: int = 0
    continuation_tokens: int = 0
    student_passes: int = 0
    teacher_passes: int = 0
    forced_tokens: int = 0
    scored_tokens: int = 0
    disk_bytes: int = 0
    prefix_continuations: int = 0
    prefix_tokens: int = 0
    teacher_answers: int = 0
    teacher_answer_tokens: int = 0


@dataclass(frozen=True)
class Times:
    """Seconds of wall time by kind of work; None where nothing is known.

    Attributes:
        sample: drawing the spines.
        distribute: teacher-forced passes over the spines.
        branch: targeted rollouts.
        score: passes over the continuations.
        other: alignment, diagnostics and all else.
        total: their sum.
    """

    sample: float | None
    distribute: float | None
    branch: float | None
    score: float | None
    other: float | None
    total: float | None


def times_of(stages: Mapping[str, Mapping[str, Any]]) -> Times:
    """Sum run.json's `stages` up by kind of work."""
    seconds = dict.fromkeys(("sample", "distribute", "branch", "score", "other"), 0.0)
    part_of = {"distributions": "distribute", "continuations": "score"}
    for stage in stages.values():
        part = part_of.get(stage["kind"], stage["kind"])
        seconds[part if part in seconds else "other"] += float(stage["seconds"])
    rounded = {kind: round(value, 3) for kind, value in seconds.items()}
    return Times(**rounded, total=round(sum(seconds.values()), 3))
