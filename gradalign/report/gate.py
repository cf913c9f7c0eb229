"""Conditions on a run's summary, for continuous integration.

A condition reads `COLUMN[METHOD@TEACHER,SPLIT] >= NUMBER`, such as
`pooled_low[gkd@demo:strong,incorrect]>=0.1`. The split is `all` where it is left out; methods that
look at no teacher have no `@TEACHER`; `*` matches anything, and then every match must hold. A
teacher may be given by the last part of its name (`Qwen3-8B` for `Qwen/Qwen3-8B`).

A number with an interval is judged by it: `>=` passes if the low end meets the threshold, fails if
the high end misses it, and is undecided in between; `<=` the other way round. So two runs on other
questions that truly stand at the threshold almost never disagree, where point values would half of
the time.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.report.format import visible
from gradalign.report.node_scores import arms_in
from gradalign.store.manifest import controls_in
from gradalign.store.schema import schema
from gradalign.store.splits import ENTROPY_NAMES, QUARTERS

if TYPE_CHECKING:
    from gradalign.config import ScoreConfig
    from gradalign.report.report import Report

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"^\s*(\w+)\s*\[(.*)\]\s*(>=|<=|==|>|<|=)\s*(\S+)\s*$", re.DOTALL)
_HINT = "Write COLUMN[METHOD@TEACHER,SPLIT]>=NUMBER, such as pooled_low[gkd@demo:strong]>=0.1."
_SPLITS = ("all", "correct", "incorrect", "with-special", "without-special")
_SPLIT_KINDS = ("position:", "entropy:", "question:")
_KNOWN_SPLITS = (
    *_SPLITS,
    *(f"position:{name}" for name in QUARTERS),
    *(f"entropy:{name}" for name in ENTROPY_NAMES),
)
_NOT_NUMBERS = ("teacher", "method", "split", "reason")


@dataclass(frozen=True)
class Condition:
    """A condition as it was written.

    Attributes:
        text: the whole of it.
        column: column of the summary.
        method, teacher: patterns; teacher "" for methods that look at none.
        split: split of the summary.
        comparison: >=, <=, > or <.
        threshold: the number.
    """

    text: str
    column: str
    method: str
    teacher: str
    split: str
    comparison: str
    threshold: float


@dataclass(frozen=True)
class Outcome:
    """A condition at one teacher and method.

    Attributes:
        condition: as written.
        name: METHOD@TEACHER,SPLIT that it was tried on.
        value: what the summary holds; NaN where it has no number, which fails.
        status: pass, fail, or undecided where the interval holds the threshold; what has neither
            a value nor an interval fails.
        reason: why there is no value, where the summary says so.
        low, high: the interval that it was judged by; NaN for a number without one.
        questions: about how many would decide it, if the value is what it seems; NaN where that
            cannot be said.
    """

    condition: str
    name: str
    value: float
    status: Literal["pass", "fail", "undecided"]
    reason: str = ""
    low: float = math.nan
    high: float = math.nan
    questions: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether the condition holds for sure."""
        return self.status == "pass"

    @property
    def undecided(self) -> bool:
        """Whether the interval holds the threshold."""
        return self.status == "undecided"

    @property
    def message(self) -> str:
        """What was found, in a sentence."""
        why = f" ({self.reason})" if self.reason else ""
        found = f"is {self.value:.4g}" if math.isfinite(self.value) else f"has no value{why}"
        if not math.isnan(self.low):
            found += f", interval [{self.low:.3f}, {self.high:.3f}]"
        if self.undecided:
            found += ": undecided"
        if math.isfinite(self.questions):
            found += f", about {self.questions:,.0f} questions would decide"
        return f"{self.condition}: {self.name} {found}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return {**plain, "passed": self.passed}


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        UsageError: it is not of the form above, or names a column that the summary lacks.
    """
    match = _FORM.match(text)
    if match is None:
        raise UsageError(f"--fail-under {text!r} is not a condition.", _HINT)
    column, inside, comparison, number = match.groups()
    known = [name for name in schema("summary").names if name not in _NOT_NUMBERS]
    if column not in known:
        raise UsageError(
            f"--fail-under {text!r}: the summary has no column {column!r}.",
            f"Known: {', '.join(known)}.",
        )
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise UsageError(f"--fail-under {text!r}: {number!r} is not a number.", _HINT)
    arm, separator, last = inside.rpartition(",")
    split = last.strip()
    if not separator or not (split in _SPLITS or split.startswith(_SPLIT_KINDS)):
        arm, split = inside, "all"
    method, _, teacher = arm.strip().partition("@")
    if not method:
        raise UsageError(f"--fail-under {text!r} names no method.", _HINT)
    comparison = ">=" if comparison in {"=", "=="} else comparison
    return Condition(text, column, method, teacher, split, comparison, threshold)


def check_ahead(conditions: Sequence[str], config: ScoreConfig) -> None:
    """Refuse conditions that a run of these settings will have nothing for.

    Raises:
        UsageError: a condition cannot be read, or names a teacher, method or split that the run
            will not have. A question's own split is known only afterwards.
    """
    from gradalign import methods
    from gradalign.contexts import controls_beside, is_delta, parse_any

    labels = [parse_any(spec).label for spec in config.teachers]
    controls = controls_beside(config.teachers, control=config.control, controls=config.controls)
    labels += controls
    chosen = [methods.get(spec) for spec in config.methods]
    arms = [
        Arm(label, method.spec)
        for method in chosen
        for label in (labels if method.of_teacher else [""])
        if not (is_delta(label) and method.beyond_nodes)
    ]
    for text in conditions:
        condition = parse_condition(text)
        if not any(_matches(condition, arm, controls) for arm in arms):
            raise UsageError(
                f"--fail-under {text!r} matches no teacher and method of this run.",
                f"Known: {', '.join(map(str, arms))}.",
            )
        if condition.split not in _KNOWN_SPLITS and not condition.split.startswith("question:"):
            raise UsageError(
                f"--fail-under {text!r}: no run has a split {condition.split!r}.",
                f"Known: {', '.join(_KNOWN_SPLITS)}, question:ID.",
            )


def check(report: Report, conditions: Sequence[str]) -> list[Outcome]:
    """Try conditions on a run.

    Raises:
        RunError: the run is not finished.
        UsageError: a condition cannot be read, or nothing in the run matches it.
    """
    parsed = [parse_condition(text) for text in conditions]
    report.check_finished()
    return [outcome for condition in parsed for outcome in _try(report, condition)]


def _try(report: Report, condition: Condition) -> list[Outcome]:
    summary = report.summary
    arms = arms_in(summary)
    controls = controls_in(report.metadata.get("resolved", {}))
    chosen = [arm for arm in arms if _matches(condition, arm, controls)]
    if not chosen:
        raise UsageError(
            f"--fail-under {condition.text!r} matches nothing in {report.path}.",
            f"Known: {', '.join(map(str, arms))}.",
        )
    if condition.split not in {*summary["split"], *_KNOWN_SPLITS}:
        raise UsageError(
            f"--fail-under {condition.text!r}: the run has no split {condition.split!r}.",
            f"Known: {', '.join(s for s in summary['split'].unique() if 'question:' not in s)}, "
            "question:ID.",
        )
    rows = summary[summary["split"] == condition.split].set_index(["teacher", "method"])
    records = {
        Arm(str(row["teacher"]), str(row["method"])): row
        for row in rows.reset_index().to_dict("records")
    }
    outcomes = []
    for arm in chosen:
        value = float(rows[condition.column].get(arm, math.nan))
        name = f"{arm},{condition.split}"
        there = math.isfinite(value)
        why = rows["reason"].get(arm) if "reason" in rows and not there else None
        if arm not in rows.index:
            why = "nothing in this split"
        reason = why if isinstance(why, str) and (why and _tells(condition.column)) else ""
        outcomes.append(_judge(condition, name, value, reason, records.get(arm, {})))
    return outcomes


INTERVALS = {
    "pooled": ("pooled_low", "pooled_high"),
    "mean_cosine": ("mean_low", "mean_high"),
    "balanced": ("balanced_low", "balanced_high"),
    "weights": ("weights_low", "weights_high"),
    "weights_gain": ("weights_gain_low", "weights_gain_high"),
    "weights_gain_one": ("weights_gain_one_low", "weights_gain_one_high"),
    "weights_adamw": ("weights_adamw_low", "weights_adamw_high"),
    "weights_adamw_one": ("weights_adamw_one_low", "weights_adamw_one_high"),
}
"""Columns of the summary that have an interval, and its ends."""


def _judge(
    condition: Condition, name: str, value: float, reason: str, row: Mapping[Any, Any]
) -> Outcome:
    """Judge a number by its interval where it has one, otherwise by itself."""
    upward = condition.comparison.startswith(">")
    holds = _COMPARE[condition.comparison]
    point, low, high = math.nan, math.nan, math.nan
    for column, ends in INTERVALS.items():
        if condition.column in (column, ends[0 if upward else 1]):
            point, low, high = (float(row.get(key, math.nan)) for key in (column, *ends))
    if math.isnan(low) or math.isnan(high):
        passed = math.isfinite(value) and holds(value, condition.threshold)
        return Outcome(condition.text, name, value, "pass" if passed else "fail", reason)
    near, far = (low, high) if upward else (high, low)
    if holds(near, condition.threshold):
        return Outcome(condition.text, name, value, "pass", reason, low, high)
    if not holds(far, condition.threshold):
        return Outcome(condition.text, name, value, "fail", reason, low, high)
    end = near if holds(point, condition.threshold) else far  # the one that has to move
    questions, gap = math.nan, abs(point - condition.threshold)
    if gap > 0:  # widths fall with the square root of the number of questions
        needed = float(row["num_questions"]) * ((point - end) / gap) ** 2
        questions = math.ceil(needed * (1.0 - 1e-9))
    return Outcome(condition.text, name, value, "undecided", reason, low, high, questions)


def warnings_of(conditions: Sequence[str]) -> list[str]:
    """Say which conditions are on point values.

    Raises:
        UsageError: one cannot be read.
    """
    out = []
    for text in conditions:
        column = parse_condition(text).column
        if column in INTERVALS:
            out.append(
                f"{text}: {column} is a point value; it is judged by its interval, as "
                f"{INTERVALS[column][0]} or {INTERVALS[column][1]} would be."
            )
        elif column not in {end for ends in INTERVALS.values() for end in ends}:
            out.append(
                f"{text}: {column} has no interval; at the threshold two runs disagree half of "
                "the time."
            )
    return out


def _tells(column: str) -> bool:
    """Whether a column is null for the reason that the pooled alignment is."""
    return not column.startswith("weights")


def _matches(condition: Condition, arm: Arm, controls: Sequence[str]) -> bool:
    """Whether a condition is about an arm; about the run's own controls only by their names."""
    if not fnmatchcase(arm.method, condition.method):
        return False
    if arm.teacher in controls:
        return condition.teacher == arm.teacher
    if not condition.teacher:
        return not arm.teacher or condition.method == "*"
    return any(
        fnmatchcase(name, condition.teacher) for name in (arm.teacher, arm.teacher.split("/")[-1])
    )


def github_annotations(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what GitHub Actions shows beside a job: a line per condition that does not pass."""
    return [
        f"::{'warning' if outcome.undecided else 'error'} title=gradalign::"
        f"{_github(visible(outcome.message))}"
        for outcome in outcomes
        if not outcome.passed
    ]


def _github(text: str) -> str:
    """Escape the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def junit(outcomes: Sequence[Outcome], name: str) -> bytes:
    """Return JUnit XML: one test case per outcome; what is undecided counts as an error."""
    failures = sum(outcome.status == "fail" for outcome in outcomes)
    suite = ElementTree.Element(
        "testsuite",
        name=visible(f"gradalign {name}"),
        tests=str(len(outcomes)),
        failures=str(failures),
        errors=str(sum(outcome.undecided for outcome in outcomes)),
        skipped="0",
    )
    for outcome in outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname="gradalign.check",
            name=visible(f"{outcome.condition} ({outcome.name})"),
        )  # fmt: skip
        if not outcome.passed:
            text = visible(outcome.message)
            kind = "error" if outcome.undecided else "failure"
            ElementTree.SubElement(case, kind, message=text).text = text
    root = ElementTree.Element("testsuites")
    root.append(suite)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data
