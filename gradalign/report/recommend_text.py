"""A recommendation in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gradalign.alignment.findings import TOO_FEW
from gradalign.alignment.scores import IDEAL_IS_NOISE, METHOD_IS_NOISE, NO_DIRECTION
from gradalign.estimates import Difference
from gradalign.report.format import interval, number, rough_duration
from gradalign.report.verdict import Part, Ranked, Settle, TeacherPlace, above


def headline(
    verdict: str,
    teacher: str | None,
    best: Ranked | None,
    places: Sequence[TeacherPlace],
    pairs: Sequence[Difference],
    level: float,
    reasons: Iterable[str] = (),
) -> str:
    """Say the verdict in a sentence; `reasons` say why candidates have no pooled alignment."""
    if best is None:
        if TOO_FEW in set(reasons):
            return "No clear winner: too few questions to give any candidate's alignment a value."
        return "No clear winner: no candidate has a pooled alignment at all."
    value = interval(*best.pooled.span)
    if verdict == "none":
        if best.pooled.negative:
            return (
                f"Do not distill: even the best candidate, {best.name}, points away from "
                f"success, {value}."
            )
        return (
            f"No clear winner: the best candidate, {best.name} with {value}, is not surely above "
            + ("0." if not best.pooled.positive else "the controls.")
        )
    if verdict == "winner":
        rivals = sum(place.role == "candidate" for place in places) - 1
        over = f", ahead of every other teacher at {level:.0%} confidence" if rivals else ""
        return f"Distill from {teacher} with {best.method}: pooled alignment {value}{over}."
    names = [place.teacher for place in places if place.role == "candidate"]
    same = [
        pair.second if pair.first == teacher else pair.first
        for pair in pairs
        if teacher in (pair.first, pair.second)
        and {pair.first, pair.second} <= set(names)
        and not pair.significant(level)
    ]
    return (
        f"No clear winner among teachers: {teacher} with {best.method} leads with {value}, but "
        f"cannot be told from {', '.join(same) or 'the best of the others'}."
    )


def unpooled_remarks(
    totals: Mapping[str, int], best: Ranked | None, reasons: Iterable[str]
) -> list[str]:
    """Say why nothing has an alignment, where that is so.

    Args:
        totals: of run.json.
        best: the best candidate; None where no candidate has a pooled alignment.
        reasons: why the candidates have none.
    """
    if best is not None or not totals.get("spines"):
        return []
    why = next((why for why in (IDEAL_IS_NOISE, TOO_FEW) if why in set(reasons)), "")
    if why:
        return [
            f"{why[0].upper()}{why[1:]}: take more questions (--limit), then "
            "more rollouts (--continuations)."
        ]
    others = set(reasons) & {NO_DIRECTION, METHOD_IS_NOISE}
    if others:
        return [f"{why[0].upper()}{why[1:]}." for why in sorted(others)]
    return [
        f"{totals.get('correct_spines', 0):,} of {totals['spines']:,} responses are correct, and "
        "at no position did success depend on the token: check the verifier, or take questions "
        "that this student sometimes solves."
    ]


def method_remark(
    best: Ranked | None, equals: Sequence[str], ranking: Sequence[Ranked], verdict: str
) -> list[str]:
    """Say which methods of the best teacher cannot be told apart."""
    if best is None or verdict == "none":
        return []
    if len(equals) > 1:
        return [
            f"No clear winner among methods: {', '.join(equals)} cannot be told apart under "
            f"{best.teacher}; choose by cost."
        ]
    own = [item for item in ranking if item.teacher == best.teacher and item.role == "candidate"]
    return [f"{best.method} is surely the best of its {len(own)} methods."] if own[1:] else []


def control_remarks(ranking: Sequence[Ranked], best: Ranked | None, level: float) -> list[str]:
    """Say where the controls stand."""
    controls = [item for item in ranking if item.role == "control" and item.pooled.known]
    if best is None:
        return []
    if not controls:
        return [
            "No control was scored: add --method random, and a teacher with the context "
            "wrong-answer, to see what a useless teacher would get."
        ]
    top = controls[0]
    beaten = above(best, controls, level)
    return [
        f"Best control: {top.name}, place {top.rank} of {len(ranking)}, "
        f"{interval(*top.pooled.span)}; the best candidate is "
        f"{'surely above every control' if beaten else 'NOT surely above every control'}."
    ]


_PART_NAMES = {
    "correct": "correct responses",
    "incorrect": "incorrect responses",
    "position": "response positions",
    "entropy": "tokens of student entropy",
}


def part_name(split: str) -> str:
    """Say in words what a split is."""
    kind, _, rest = split.partition(":")
    if kind not in _PART_NAMES:
        return split
    return f"{_PART_NAMES[kind]} {rest}".strip() if rest else _PART_NAMES[kind]


def part_remarks(parts: Sequence[Part], contrasts: Sequence[Difference], level: float) -> list[str]:
    """Say which tokens to keep, to leave out, and where the gain is."""
    lines = []
    for advice, text in (("keep", "Keep"), ("drop", "Leave out"), ("unsure", "Undecided")):
        names = [
            f"{part_name(part.split)} ({number(part.pooled.value, 2)})"
            for part in parts
            if part.advice == advice and part.pooled.known
        ]
        if names:
            lines.append(f"{text}: {', '.join(names)}.")
    for pair in contrasts:
        if pair.significant(level):
            more, less = (pair.first, pair.second) if pair.value > 0 else (pair.second, pair.first)
            lines.append(
                f"More is gained on {part_name(more)} than on {part_name(less)} "
                f"(difference {number(abs(pair.value), 2)}, p = {pair.adjusted_p:.2g})."
            )
    return lines


def settle_remarks(settle: Sequence[Settle], num_questions: int) -> list[str]:
    """Say what would settle what is open."""
    lines = []
    for item in settle:
        what = f"To settle {item.open.first} against {item.open.second} (difference "
        what += f"{number(item.open.value)}, standard error {item.open.se:.3f})"
        if not math.isfinite(item.questions):
            continue
        if item.questions > 1000 * num_questions:
            lines.append(f"{what}: no realistic number of questions; treat them as equal.")
            continue
        lines.append(
            f"{what}: about {item.extra_questions:,.0f} more questions, "
            f"{item.extra_rollouts:,.0f} targeted rollouts, "
            f"{rough_duration(item.extra_seconds)} at this run's speed."
        )
    return lines
