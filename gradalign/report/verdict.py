"""What a recommendation consists of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from gradalign.report.format import visible
from gradalign.report.node_scores import Arm
from gradalign.report.significance import Pair

Role = Literal["candidate", "control", "reference"]
CONTROL_METHODS = ("random", "uniform_negative")
CONTROL_CONTEXT = "wrong-answer"


@dataclass(frozen=True)
class Ranked:
    """A place in the ranking.

    Attributes:
        rank: 1 is the highest pooled alignment; references and controls have places too.
        teacher, method: the arm.
        role: candidate; control (random or constant directions, false contexts); or reference
            (methods that need no teacher, such as Dr. GRPO).
        pooled, low, high: pooled alignment with its interval.
        num_nodes: nodes behind it.
        against_leader: this arm minus the best candidate; None for the best candidate itself.
    """

    rank: int
    teacher: str
    method: str
    role: Role
    pooled: float
    low: float
    high: float
    num_nodes: int
    against_leader: Pair | None

    @property
    def name(self) -> str:
        """METHOD@TEACHER."""
        return str(Arm(self.teacher, self.method))


@dataclass(frozen=True)
class TeacherPlace:
    """A teacher over all its methods: the mean of their pooled alignments, with its interval."""

    teacher: str
    role: Role
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """A part of the tokens under the best candidate.

    Attributes:
        split: as in the summary.
        share: share of all response positions that lie in it, estimated from the nodes.
        pooled, low, high: alignment there.
        advice: keep (the interval is above 0), drop (below 0), or unsure.
    """

    split: str
    share: float
    pooled: float
    low: float
    high: float
    advice: Literal["keep", "drop", "unsure"]


@dataclass(frozen=True)
class Settle:
    """What would probably settle an open comparison.

    Attributes:
        first, second: what is compared.
        difference, se: estimate and its standard error.
        questions: questions in all that would show this difference with 80 % power; NaN where
            that cannot be said.
        extra_questions: that many more than there are.
        extra_rollouts: targeted rollouts for them, at this run's number per question.
        extra_seconds: this run's time per question times the extra questions.
    """

    first: str
    second: str
    difference: float
    se: float
    questions: float
    extra_questions: float
    extra_rollouts: float
    extra_seconds: float


@dataclass(frozen=True)
class Recommendation:
    """The verdict of a run.

    Attributes:
        verdict: `winner` (one teacher beats all the others), `tie` (the best cannot be told from
            another), or `none` (no candidate is surely above 0 and above the controls).
        teacher: the best candidate's teacher; None where the verdict is `none`.
        methods: the methods of that teacher that cannot be told from its best, best first.
        headline: the verdict in a sentence.
        remarks: further sentences.
        ranking: every arm.
        teachers: every teacher over all its methods, best first.
        teacher_pairs: every pair of teachers, on the same nodes and methods.
        parts: what to distill, under the best candidate.
        contrasts: paired differences between parts of the same questions.
        settle: what is open, and what it would take.
        level: confidence.
    """

    verdict: Literal["winner", "tie", "none"]
    teacher: str | None
    methods: tuple[str, ...]
    headline: str
    remarks: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    teachers: tuple[TeacherPlace, ...]
    teacher_pairs: tuple[Pair, ...]
    parts: tuple[Part, ...]
    contrasts: tuple[Pair, ...]
    settle: tuple[Settle, ...]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, None where a number is not known."""
        plain: dict[str, Any] = _jsonable(asdict(self))
        return plain

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.remarks])

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(visible(line))}</li>" for line in self.remarks)
        return f"<div><b>{escape(visible(self.headline))}</b><ul>{lines}</ul></div>"


def role_of(arm: Arm) -> Role:
    """Say what an arm is in a comparison."""
    if arm.method.partition(":")[0] in CONTROL_METHODS:
        return "control"
    if arm.teacher.rpartition("+")[2].partition(":")[0] == CONTROL_CONTEXT:
        return "control"
    return "candidate" if arm.teacher else "reference"


def above(best: Ranked, others: Sequence[Ranked], level: float) -> bool:
    """Whether the best candidate is surely above each of the others."""
    return all(
        item.against_leader is not None
        and item.against_leader.difference < 0
        and item.against_leader.significant(level)
        for item in others
        if math.isfinite(item.pooled)
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
