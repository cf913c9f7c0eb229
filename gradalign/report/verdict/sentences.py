"""The sentences of a verdict."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from gradalign import methods
from gradalign.alignment.findings import TOO_FEW
from gradalign.alignment.scores import IDEAL_IS_NOISE, METHOD_IS_NOISE, NO_DIRECTION
from gradalign.alignment.weights import how_many_questions
from gradalign.estimates import Arm, Difference, Estimate
from gradalign.rehearsal.curves import Point
from gradalign.report.format import interval, number, p_value, rough_duration, share
from gradalign.report.verdict.bases import Basis
from gradalign.report.verdict.recommendation import (
    Judgement,
    Part,
    Ranked,
    Settle,
    Shared,
    role_of,
)


def headline(
    found: Judgement,
    basis: Basis,
    ranking: Sequence[Ranked],
    level: float,
    reasons: Collection[str],
) -> str:
    """Say the verdict in a sentence.

    Args:
        found: what the three questions come to.
        basis: what arms are ranked by.
        ranking: every arm.
        level: confidence.
        reasons: why nothing has a value, where nothing has.
    """
    best = best_of(found, ranking)
    if best is None:
        if TOO_FEW in reasons:
            return "No clear winner: too few questions to give any candidate's alignment a value."
        return "No clear winner: no candidate has a pooled alignment at all."
    value = f"{basis.words} {interval(*best.value.span)}"
    if found.verdict == "none":
        if best.value.negative:
            return (
                f"Do not distill: even the best candidate, {best.name}, points away from "
                f"success, {value}."
            )
        return f"No clear winner: {best.name} leads with {value}, but {found.why}."
    if found.verdict == "tie":
        return (
            f"No clear winner among teachers: {best.teacher} with {best.method} leads with "
            f"{value}, but {found.why}."
        )
    ahead = ""
    if len(found.teachers) > 1:
        ahead = f", ahead of every other teacher at {level:.0%} confidence"
    if found.verdict == "leading":
        return f"Leading, no control: {best.teacher} with {best.method}, {value}{ahead}."
    return f"Distill from {best.teacher} with {best.method}: {value}{ahead}."


def best_of(found: Judgement, ranking: Sequence[Ranked]) -> Ranked | None:
    """Return the place of the leader."""
    arms = {Arm(item.teacher, item.method): item for item in ranking}
    return None if found.leader is None else arms[found.leader]


def basis_remarks(found: Judgement, basis: Basis, ranking: Sequence[Ranked]) -> list[str]:
    """Say what the ranking goes by, how well that predicts, and what to take off the best."""
    if found.leader is None:
        return []
    lines = [f"Ranked by {basis.words}. {basis.evidence.sentence}".strip()]
    candidates = sum(item.role == "candidate" and item.value.known for item in ranking)
    if candidates > 1:
        lines.append(
            f"The leader is the best of {candidates} candidates, so its own value is optimistic; "
            "the comparisons allow for that."
        )
    return lines


def rehearsal_remarks(found: Judgement, curves: Mapping[Arm, Sequence[Point]]) -> list[str]:
    """Say where rehearsed trainings stop being trusted, and which know values of before only.

    Args:
        found: what the three questions come to.
        curves: rehearsed trainings, by arm.
    """
    if not curves:
        return []
    ends: dict[str, list[str]] = {}
    for arm, points in curves.items():
        lost = next((point for point in points if not point.trusted), None)
        if lost is not None and role_of(arm) == "candidate":
            ends.setdefault(f"{arm} is not trusted at {lost.steps} steps ({lost.why})", [])
    lines = []
    asked = max(point.steps for points in curves.values() for point in points)
    if ends:
        said = list(ends)
        more = f"; and {len(said) - 2} more" if len(said) > 2 else ""
        lines.append(f"Rehearsal does not reach {asked} steps: {'; '.join(said[:2])}{more}.")
    if found.leader is not None and found.leader in curves:
        points = [point for point in curves[found.leader] if point.trusted]
        turned = [a for a, b in itertools.pairwise(points) if b.gain.high < a.gain.value]
        if turned:
            lines.append(
                f"{found.leader} turns: its rehearsed gain falls after {turned[0].steps} steps."
            )
    if found.leader is not None and methods.get(found.leader.method).uses_continuations:
        lines.append(
            f"{found.leader.method} looks at what follows a token: its rehearsal keeps the values "
            "of the student as it is."
        )
    return lines


def unpooled_remarks(
    totals: Mapping[str, int], found: Judgement, reasons: Iterable[str]
) -> list[str]:
    """Say why nothing has an alignment, where that is so.

    Args:
        totals: of run.json.
        found: what the three questions come to.
        reasons: why the candidates have none.
    """
    if found.leader is not None or not totals.get("spines"):
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


def method_remark(found: Judgement, level: float) -> list[str]:
    """Say which methods of the leading teacher cannot be told apart."""
    if found.leader is None or found.verdict == "none":
        return []
    equals = found.equals(level)
    if len(equals) > 1:
        return [
            f"No clear winner among methods: {', '.join(equals)} cannot be told apart under "
            f"{found.leader.teacher}; choose by cost."
        ]
    if len(found.methods) > 1:
        return [f"{equals[0]} is surely the best of its {len(found.methods)} methods."]
    return []


def control_remarks(found: Judgement, ranking: Sequence[Ranked], level: float) -> list[str]:
    """Say where the leader stands against what teaches nothing."""
    best, zero = best_of(found, ranking), found.above_zero
    if best is None or zero is None:
        return []
    surely = zero.value > 0 and zero.significant(level)
    lines = [
        f"{best.name} is {'surely' if surely else 'NOT surely'} above 0, which is what a random "
        f"direction has (p {p_value(zero.adjusted_p)})."
    ]
    for pair in found.controls:
        beaten = pair.value > 0 and pair.significant(level)
        lines.append(
            f"{pair.first} is {'surely' if beaten else 'NOT surely'} above the control "
            f"{pair.second}: {interval(*pair.span)} (p {p_value(pair.adjusted_p)})."
        )
    if not found.controls:
        lines.append(
            "No teacher that was told something false was scored; "
            "`gradalign rescore RUN --teacher self+wrong-answer` adds one, without sampling."
        )
    return lines


def direction_remarks(ranking: Iterable[Ranked]) -> list[str]:
    """Say what `uniform_negative` is the control of, where it was scored."""
    if not any(item.method.partition(":")[0] == "uniform_negative" for item in ranking):
        return []
    return [
        "uniform_negative is the control of "
        '"Does on-policy distillation really distill?" (arXiv 2608.31046): one push down on every '
        "drawn token, which has no direction on average, so alignment says nothing of it; train "
        "it beside the leader."
    ]


def information_remarks(found: Judgement, level: float) -> list[str]:
    """Say what teachers were told adds to the words that they were asked in."""
    lines = []
    for pair in found.information:
        does = "does NOT surely gain"
        if pair.significant(level):
            does = "surely gains" if pair.value > 0 else "surely loses"
        lines.append(
            f"Beyond the words of its prompt, {pair.first} {does} by the information in it: "
            f"{interval(*pair.span)} over {pair.second} (p {p_value(pair.adjusted_p)})."
        )
    return lines


def shared_remarks(shared: Shared | None, level: float) -> list[str]:
    """Say whether the leader's updates are common to questions: whether it was told, or knows."""
    if shared is None:
        return []
    own = f"{percent(shared.share)} of its update"
    if shared.difference is None or shared.other_share is None:
        return [
            f"{shared.arm.teacher} with {shared.arm.method}: {own} is shared by questions; the "
            "rest is each question's own, and little of it stays in the weights."
        ]
    others = f"{percent(shared.other_share)} of {shared.other}'s"
    least = f"(p {p_value(shared.difference.adjusted_p)})"
    surely = shared.difference.significant(level)
    if shared.told and surely and shared.difference.value < 0:
        what = f"was told rather than knows: {own} is shared by questions, against {others}"
    elif not shared.told and surely and shared.difference.value > 0:
        what = f"knows rather than was told: {own} is shared by questions, against {others}"
    else:
        than = "was told" if shared.told else "was not told"
        what = f"{than}, which its updates do NOT surely show: {own} is shared by questions, "
        what += f"against {others}"
    return [f"{shared.arm.teacher} {what} {least}."]


def percent(value: Estimate) -> str:
    """Write a share with its interval in percent, which ends at 0 and at 100."""
    low, high = (min(max(end, 0.0), 1.0) for end in (value.low, value.high))
    return f"{share(min(max(value.value, 0.0), 1.0))} [{share(low)}, {share(high)}]"


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


def settle_remarks(found: Judgement, settle: Sequence[Settle], num_questions: int) -> list[str]:
    """Say what would settle what is open, and the command for it."""
    lines = []
    if found.verdict == "tie" and found.basis.startswith("weights"):
        text = how_many_questions()
        lines.append(f"{text[0].upper()}{text[1:]}.")
    for item in settle:
        if not math.isfinite(item.questions):
            continue
        what = f"To settle {item.open.first} against {item.open.second} (difference "
        what += f"{number(item.open.value)}, standard error {item.open.se:.3f})"
        if item.questions > 1000 * num_questions:
            lines.append(f"{what}: no realistic number of questions; treat them as equal.")
        elif item.task_size is not None and not item.command:
            lines.append(
                f"{what}: about {item.questions:,.0f} questions, but the task has "
                f"{item.task_size:,}; treat them as equal on it."
            )
        else:
            lines.append(
                f"{what}: about {item.extra_questions:,.0f} more questions, "
                f"{item.extra_rollouts:,.0f} targeted rollouts, "
                f"{rough_duration(item.extra_seconds)} at this run's speed: {item.command}"
            )
    return lines
