"""What a recommendation consists of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from gradalign.estimates import Arm, Difference, Estimate
from gradalign.report.format import visible

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
        pooled: its pooled alignment.
        num_nodes: nodes behind it.
        against_leader: this arm minus the best candidate; None for the best candidate itself.
    """

    rank: int
    teacher: str
    method: str
    role: Role
    pooled: Estimate
    num_nodes: int
    against_leader: Difference | None

    @property
    def name(self) -> str:
        """METHOD@TEACHER."""
        return str(Arm(self.teacher, self.method))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, those of the estimates among them."""
        pair = self.against_leader
        return {
            "rank": self.rank,
            "teacher": self.teacher,
            "method": self.method,
            "role": self.role,
            **self.pooled.columns("pooled"),
            "num_nodes": self.num_nodes,
            "against_leader": None if pair is None else difference_to_dict(pair),
        }


@dataclass(frozen=True)
class TeacherPlace:
    """A teacher over all its methods: the mean of their pooled alignments."""

    teacher: str
    role: Role
    mean: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, those of the estimate among them."""
        return {"teacher": self.teacher, "role": self.role, **self.mean.columns("mean")}


@dataclass(frozen=True)
class Part:
    """A part of the tokens under the best candidate.

    Attributes:
        split: as in the summary.
        share: share of all response positions that lie in it, estimated from the nodes.
        pooled: pooled alignment there.
    """

    split: str
    share: float
    pooled: Estimate

    @property
    def advice(self) -> Literal["keep", "drop", "unsure"]:
        """Keep (the interval is above 0), drop (below 0), or unsure."""
        return "keep" if self.pooled.positive else "drop" if self.pooled.negative else "unsure"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, those of the estimate among them."""
        return {
            "split": self.split,
            "share": self.share,
            **self.pooled.columns("pooled"),
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Settle:
    """What would probably settle an open comparison.

    Attributes:
        open: the comparison.
        questions: questions in all that would show this difference with 80 % power; NaN where
            that cannot be said.
        extra_questions: that many more than there are.
        extra_rollouts: targeted rollouts for them, at this run's number per question.
        extra_seconds: this run's time per question times the extra questions.
    """

    open: Difference
    questions: float
    extra_questions: float
    extra_rollouts: float
    extra_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, those of the comparison among them."""
        return {
            "first": self.open.first,
            "second": self.open.second,
            "difference": self.open.value,
            "se": self.open.se,
            "questions": self.questions,
            "extra_questions": self.extra_questions,
            "extra_rollouts": self.extra_rollouts,
            "extra_seconds": self.extra_seconds,
        }


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
    teacher_pairs: tuple[Difference, ...]
    parts: tuple[Part, ...]
    contrasts: tuple[Difference, ...]
    settle: tuple[Settle, ...]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, None where a number is not known."""
        plain: dict[str, Any] = to_json(
            {
                "verdict": self.verdict,
                "teacher": self.teacher,
                "methods": self.methods,
                "headline": self.headline,
                "remarks": self.remarks,
                "ranking": [item.to_dict() for item in self.ranking],
                "teachers": [item.to_dict() for item in self.teachers],
                "teacher_pairs": [difference_to_dict(pair) for pair in self.teacher_pairs],
                "parts": [item.to_dict() for item in self.parts],
                "contrasts": [difference_to_dict(pair) for pair in self.contrasts],
                "settle": [item.to_dict() for item in self.settle],
                "level": self.level,
            }
        )
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
        and item.against_leader.value < 0
        and item.against_leader.significant(level)
        for item in others
        if item.pooled.known
    )


def difference_to_dict(pair: Difference) -> dict[str, Any]:
    """Return a difference that stands by itself, with what it is of."""
    return {
        "first": pair.first,
        "second": pair.second,
        **pair.columns(),
        "num_nodes": pair.num_nodes,
        "se": pair.se,
    }


def to_json(value: Any) -> Any:
    """Return what JSON can hold: lists for tuples, None for numbers that are not known."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
