"""How much a run has to do, as far as its questions alone decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradalign.stages.preparation.preflight import Checked


@dataclass(frozen=True)
class Workload:
    """What preparation counted.

    Attributes:
        num_questions: how many there are.
        prompt_tokens: of the student's prompts, each question once.
        teacher_prompt_tokens: of each teacher's prompts, by label, each question once; for
            contexts that show attempts, of the bare questions.
    """

    num_questions: int
    prompt_tokens: int
    teacher_prompt_tokens: Mapping[str, int]


def workload_of(checked: Checked) -> Workload:
    """Count what a checked configuration has to do."""
    return Workload(
        num_questions=len(checked.questions),
        prompt_tokens=sum(checked.prompts.lengths),
        teacher_prompt_tokens={
            teacher.spec.label: sum(teacher.prompts.lengths) for teacher in checked.teachers
        },
    )
