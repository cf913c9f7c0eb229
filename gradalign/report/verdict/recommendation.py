"""What a recommendation consists of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any, Literal

from gradalign import methods
from gradalign.contexts import FALSE, SHARED, is_delta, parse_delta
from gradalign.errors import GradalignError
from gradalign.estimates import Arm, Difference, Estimate
from gradalign.report.format import visible

Role = Literal["candidate", "control", "reference"]
CONTROL_METHODS = ("random", "uniform_negative")
CONTROL_CONTEXTS = FALSE
SHARED_CONTEXTS = ("", *SHARED)


@dataclass(frozen=True)
class Ranked:
    """A place in the ranking.

    Attributes:
        rank: 1 is the highest value; references and controls have places too.
        teacher, method: the arm.
        role: candidate; control (random or constant directions, false contexts); or reference
            (methods that need no teacher, such as Dr. GRPO).
        value: what the ranking goes by; see `Recommendation.basis`.
        pooled: its pooled alignment.
        num_nodes: nodes behind it.
        against_leader: this arm minus the best candidate, where a family has tested that: other
            methods of the leading teacher, and controls. None elsewhere.
    """

    rank: int
    teacher: str
    method: str
    role: Role
    value: Estimate
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
            **self.value.columns("value", "value_"),
            **self.pooled.columns("pooled", "pooled_"),
            "num_nodes": self.num_nodes,
            "against_leader": None if pair is None else difference_to_dict(pair),
        }


@dataclass(frozen=True)
class TeacherPlace:
    """A teacher over the methods that all teachers have: the mean of their values."""

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
        task_size: questions that the task has; None where it does not tell.
        command: what samples them; empty where the task has too few, or nothing is known.
    """

    open: Difference
    questions: float
    extra_questions: float
    extra_rollouts: float
    extra_seconds: float
    task_size: int | None = None
    command: str = ""

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
            "task_size": self.task_size,
            "command": self.command,
        }


@dataclass(frozen=True)
class Shared:
    """How much of the leading teacher's update questions have in common.

    Attributes:
        arm: the leader.
        told: whether it is shown something of the question besides its prompt.
        share: s / (s + v_q), with the summary's interval.
        other: the best teacher of the other kind that has the method; "" if there is none.
        other_share: the same of it; None if there is none.
        difference: the leader's share less the other's, paired by question; None likewise.
    """

    arm: Arm
    told: bool
    share: Estimate
    other: str = ""
    other_share: Estimate | None = None
    difference: Difference | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, those of the estimates among them."""
        other = {} if self.other_share is None else self.other_share.columns("share")
        return {
            "teacher": self.arm.teacher,
            "method": self.arm.method,
            "told": self.told,
            **self.share.columns("share"),
            "other": {"teacher": self.other, **other} if other else None,
            "difference": None if self.difference is None else difference_to_dict(self.difference),
        }


@dataclass(frozen=True)
class Judgement:
    """What three questions come to, each answered from a family of its own.

    Attributes:
        verdict: `winner` (one teacher is surely ahead of all others, above 0, and above every
            teacher that was told something false); `leading` (the same, but no such control was
            scored); `tie` (the best cannot be told from another); `none` (no candidate is surely
            above 0, or a control does as well).
        why: why it is no winner, a clause; empty otherwise.
        basis: column of the summary that arms are ranked by.
        leader: the best method of the leading teacher; None where nothing has a value.
        above_zero: the leader against 0, which is what a random direction has.
        teachers: candidate teachers, best first.
        teacher_pairs: every two of them, over the methods that all have.
        methods: the leading teacher's methods, best first.
        method_pairs: every two of them.
        controls: the leading teacher against each teacher that was told something false.
        information: every teacher that was told something against its model in the same words
            without it (`reference-free`), over the methods that both have.
    """

    verdict: Literal["winner", "leading", "tie", "none"]
    why: str
    basis: str
    leader: Arm | None = None
    above_zero: Difference | None = None
    teachers: tuple[TeacherPlace, ...] = ()
    teacher_pairs: tuple[Difference, ...] = ()
    methods: tuple[str, ...] = ()
    method_pairs: tuple[Difference, ...] = ()
    controls: tuple[Difference, ...] = ()
    information: tuple[Difference, ...] = ()

    def equals(self, level: float) -> tuple[str, ...]:
        """Return the leading teacher's methods that are not surely worse than its best."""
        best = self.methods[0] if self.methods else ""
        worse = {
            pair.second if pair.first == best else pair.first
            for pair in self.method_pairs
            if best in (pair.first, pair.second) and pair.significant(level)
        }
        return tuple(method for method in self.methods if method not in worse)


@dataclass(frozen=True)
class Recommendation:
    """The verdict of a run.

    Attributes:
        verdict, basis: see `Judgement`.
        teacher: the leading teacher; None where the verdict is `none`.
        methods: its methods that cannot be told from its best, best first.
        headline: the verdict in a sentence.
        evidence: where the leader stands against what teaches nothing, in sentences.
        remarks: further sentences, those among them.
        ranking: every arm.
        teachers: candidate teachers over the methods that all of them have, best first.
        teacher_pairs: every two of them.
        controls: the leading teacher against each teacher that was told something false.
        information: what teachers were told, by itself; see `Judgement`.
        shared: how much of the leader's update questions have in common, against the best teacher
            of the other kind (told, or not); None without `--alignment weights`.
        parts: what to distill, under the best candidate.
        contrasts: paired differences between parts of the same questions.
        settle: what is open, and what it would take.
        level: confidence.
    """

    verdict: Literal["winner", "leading", "tie", "none"]
    basis: str
    teacher: str | None
    methods: tuple[str, ...]
    headline: str
    evidence: tuple[str, ...]
    remarks: tuple[str, ...]
    ranking: tuple[Ranked, ...]
    teachers: tuple[TeacherPlace, ...]
    teacher_pairs: tuple[Difference, ...]
    controls: tuple[Difference, ...]
    information: tuple[Difference, ...]
    shared: Shared | None
    parts: tuple[Part, ...]
    contrasts: tuple[Difference, ...]
    settle: tuple[Settle, ...]
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, None where a number is not known."""
        plain: dict[str, Any] = to_json(
            {
                "verdict": self.verdict,
                "basis": self.basis,
                "teacher": self.teacher,
                "methods": self.methods,
                "headline": self.headline,
                "remarks": self.remarks,
                "ranking": [item.to_dict() for item in self.ranking],
                "teachers": [item.to_dict() for item in self.teachers],
                "teacher_pairs": [difference_to_dict(pair) for pair in self.teacher_pairs],
                "controls": [difference_to_dict(pair) for pair in self.controls],
                "information": [difference_to_dict(pair) for pair in self.information],
                "shared": None if self.shared is None else self.shared.to_dict(),
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
    """Say what an arm is in a comparison.

    A difference that goes towards a teacher that was told something false is a control too. A sum
    with the ideal gradient in it agrees with that by itself, and a sum of several teachers has no
    teacher of its own: both stand beside, for reference.
    """
    if arm.method.partition(":")[0] in CONTROL_METHODS:
        return "control"
    if context_of(arm.teacher) in CONTROL_CONTEXTS:
        return "control"
    if not arm.teacher or _holds_the_ideal(arm.method):
        return "reference"
    return "candidate"


@cache
def _holds_the_ideal(spec: str) -> bool:
    """Whether a method is a sum with the ideal gradient in it."""
    try:
        method = methods.get(spec)
    except GradalignError:  # of a plugin that this machine does not have
        return False
    parts = method.parts if isinstance(method, methods.Mixture) else ()
    return any(part.method.ideal_multiple is not None for part in parts)


def context_of(teacher: str) -> str:
    """Return the name of a teacher's context, without what it is given; "" if it has none.

    A difference of teachers has the context of the one that it goes towards.
    """
    if is_delta(teacher):
        teacher = parse_delta(teacher).first
    name = teacher.rpartition("+")[2].partition(":")[0] if "+" in teacher else ""
    return "" if "/" in name else name  # a plus sign in the name of a folder


def is_told(teacher: str) -> bool:
    """Whether a teacher is shown something of the question besides its prompt."""
    return context_of(teacher) not in SHARED_CONTEXTS


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
