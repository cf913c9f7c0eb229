"""The three questions of a verdict, each with a family of comparisons of its own.

Which teacher is ahead of which (all pairs of candidate teachers); which methods of the leading
teacher differ (all pairs of them); whether the leader is above what teaches nothing (0, and every
teacher that was told something false). A family is tested by the largest t over all its pairs,
because the data that choose the leader test it too. So arms of one family change no answer of
another, and further members may weaken an answer and never strengthen it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from gradalign.alignment.families import compare_pairs
from gradalign.alignment.findings import spread
from gradalign.contexts import REFERENCE_FREE, is_delta, parse_teacher
from gradalign.estimates import UNKNOWN, Arm, Difference, Estimate
from gradalign.report.verdict.bases import Basis, Contrast
from gradalign.report.verdict.recommendation import (
    CONTROL_METHODS,
    Judgement,
    TeacherPlace,
    context_of,
    is_told,
    role_of,
)

Group = tuple[str, tuple[Arm, ...]]
"""A name, and the arms whose mean stands for it."""


def judge(bases: Sequence[Basis], arms: Sequence[Arm], *, level: float = 0.95) -> Judgement:
    """Answer the three questions.

    Args:
        bases: what arms may be ranked by, the best predictor first; the first in which a
            candidate has a value is taken.
        arms: every arm of the run.
        level: confidence of each family.
    """
    candidates = [arm for arm in arms if role_of(arm) == "candidate"]
    for basis in bases:
        values = {arm: basis.estimate(arm, level) for arm in candidates}
        known = [arm for arm in candidates if values[arm].known]
        if known:
            break
    else:
        return Judgement("none", "no candidate has a value", bases[-1].name)

    groups = _groups(known)
    best_of = {name: max(own, key=lambda arm: values[arm].value) for name, own in groups}
    shared = _shared([own for _, own in groups])
    compared: list[Group] = [
        (name, tuple(Arm(name, method) for method in shared) or (best_of[name],))
        for name, _ in groups
    ]
    places = _places(basis, compared, values, level)
    pairs = _all_pairs(basis, [(p.teacher, dict(compared)[p.teacher]) for p in places], level)
    lead = places[0].teacher
    leader = best_of[lead]

    own = sorted(dict(groups)[lead], key=lambda arm: -values[arm].value)
    method_pairs = _all_pairs(basis, [(arm.method, (arm,)) for arm in own], level)
    above = _against(basis, [(str(arm), (arm,)) for arm in known], ("0", ()), level)[str(leader)]
    controls = _controls(basis, arms, compared, lead, level)
    information = _information(basis, groups, level)

    verdict: Literal["winner", "leading", "tie", "none"] = "winner"
    why = ""
    if not (above.value > 0 and above.significant(level)):
        verdict, why = "none", "it is not surely above 0"
    elif lost := [c for c in controls if not (c.value > 0 and c.significant(level))]:
        verdict, why = "none", f"{lost[0].second}, which was told something false, does as well"
    elif why := _why_tie(bases, basis, arms, places, pairs, lead, level):
        verdict = "tie"
    elif not controls:
        verdict = "leading"
    return Judgement(
        verdict=verdict,
        why=why,
        basis=basis.name,
        leader=leader,
        above_zero=above,
        teachers=tuple(places),
        teacher_pairs=tuple(pairs),
        methods=tuple(arm.method for arm in own),
        method_pairs=tuple(method_pairs),
        controls=tuple(controls),
        information=tuple(information),
    )


def _groups(arms: Sequence[Arm]) -> list[Group]:
    """Group arms by their teachers."""
    names = dict.fromkeys(arm.teacher for arm in arms)
    return [(name, tuple(arm for arm in arms if arm.teacher == name)) for name in names]


def _shared(groups: Sequence[Sequence[Arm]]) -> list[str]:
    """Return the methods that all groups have, in the order of the first."""
    sets = [{arm.method for arm in group} for group in groups]
    return [arm.method for arm in groups[0] if all(arm.method in other for other in sets)]


def _places(
    basis: Basis, groups: Sequence[Group], values: dict[Arm, Estimate], level: float
) -> list[TeacherPlace]:
    """Rank teachers by the mean over their arms of what the tables show."""
    contrasts = [basis.contrast(arms) for _, arms in groups]
    tests = compare_together(contrasts, [(name, "0") for name, _ in groups], level)
    places = []
    for (name, arms), test in zip(groups, tests, strict=True):
        mean = float(np.mean([values[arm].value for arm in arms]))
        estimate = values[arms[0]] if len(arms) == 1 else UNKNOWN
        if len(arms) > 1:
            half = (test.high - test.low) / 2
            estimate = Estimate(mean, mean - half, mean + half, test.se)
        places.append(TeacherPlace(name, "candidate", estimate))
    return sorted(places, key=lambda place: -place.mean.value)


def _all_pairs(basis: Basis, groups: Sequence[Group], level: float) -> list[Difference]:
    """Compare every two groups, the earlier minus the later."""
    pairs = list(itertools.combinations(groups, 2))
    contrasts = [basis.contrast(one, other) for (_, one), (_, other) in pairs]
    names = [(one, other) for (one, _), (other, _) in pairs]
    return compare_together(contrasts, names, level)


def _against(
    basis: Basis, groups: Sequence[Group], other: Group, level: float
) -> dict[str, Difference]:
    """Compare every group with one; whichever of them leads, its test allows for the choice."""
    contrasts = [basis.contrast(arms, other[1]) for _, arms in groups]
    found = compare_together(contrasts, [(name, other[0]) for name, _ in groups], level)
    return {pair.first: pair for pair in found}


def _controls(
    basis: Basis, arms: Sequence[Arm], groups: Sequence[Group], lead: str, level: float
) -> list[Difference]:
    """Compare the leading teacher with each that was told something false, over equal methods.

    Each is a question of its own, "is the leader above this one too?", and all must be answered
    with yes: that needs no correction for their number (an intersection-union test).
    """
    false = [
        arm
        for arm in arms
        if role_of(arm) == "control"
        and arm.teacher
        and arm.method.partition(":")[0] not in CONTROL_METHODS
    ]
    found = []
    for name, own in _groups(false):
        methods = _shared([dict(groups)[lead], own])
        methods = [m for m in methods if math.isfinite(basis.contrast((Arm(name, m),)).value)]
        if not methods:
            continue
        rivals = [
            (teacher, tuple(Arm(teacher, method) for method in methods))
            for teacher, group in groups
            if {arm.method for arm in group} >= set(methods)
        ]
        control = (name, tuple(Arm(name, method) for method in methods))
        found.append(_against(basis, rivals, control, level)[lead])
    return found


def _information(basis: Basis, groups: Sequence[Group], level: float) -> list[Difference]:
    """Compare every teacher that was told something with its model in the words alone.

    What is left of its alignment without `reference-free` is what the information itself has.
    Differences of teachers are no models that were told something, and are left out.
    """
    groups = [(name, own) for name, own in groups if not is_delta(name)]
    plain = {
        parse_teacher(name).model: (name, own)
        for name, own in groups
        if context_of(name) == REFERENCE_FREE
    }
    pairs: list[tuple[Group, Group]] = []
    for name, own in groups:
        other = plain.get(parse_teacher(name).model)
        if other is None or not is_told(name):
            continue
        methods = _shared([own, other[1]])
        if methods:
            one, two = (
                (label, tuple(Arm(label, method) for method in methods))
                for label in (name, other[0])
            )
            pairs.append((one, two))
    contrasts = [basis.contrast(one, two) for (_, one), (_, two) in pairs]
    return compare_together(contrasts, [(one[0], two[0]) for one, two in pairs], level)


def _why_tie(
    bases: Sequence[Basis],
    basis: Basis,
    arms: Sequence[Arm],
    places: Sequence[TeacherPlace],
    pairs: Sequence[Difference],
    lead: str,
    level: float,
) -> str:
    """Say why the leading teacher is no winner; "" if it is one."""
    beaten = {
        pair.second
        for pair in pairs
        if pair.first == lead and pair.value > 0 and pair.significant(level)
    }
    same = [place.teacher for place in places[1:] if place.teacher not in beaten]
    if same:
        return f"it cannot be told from {', '.join(same)}"
    if is_told(lead) and not basis.tells_told:
        plain = [
            place.teacher
            for place in places[1:]
            if not is_told(place.teacher) and not place.mean.negative
        ]
        if plain:
            return (
                f"it was told the answer, and by {basis.words} alone such a teacher is not ahead "
                f"of {', '.join(plain)}: --alignment weights compares them"
            )
    return _disagreement(bases, basis, arms, lead, level)


def _disagreement(
    bases: Sequence[Basis], basis: Basis, arms: Sequence[Arm], lead: str, level: float
) -> str:
    """Say which other basis puts another teacher surely ahead; "" if none does."""
    for other in bases[list(bases).index(basis) + 1 :]:
        candidates = [arm for arm in arms if role_of(arm) == "candidate"]
        values = {arm: other.estimate(arm, level) for arm in candidates}
        groups = _groups([arm for arm in candidates if values[arm].known])
        if lead not in dict(groups) or len(groups) < 2:
            continue
        shared = _shared([own for _, own in groups])
        compared = [(name, tuple(Arm(name, m) for m in shared)) for name, _ in groups]
        if not shared:
            continue
        for pair in _all_pairs(other, compared, level):
            if lead not in (pair.first, pair.second) or not pair.significant(level):
                continue
            ahead = pair.first if pair.value > 0 else pair.second
            if ahead == lead or (is_told(ahead) and not is_told(lead) and not other.tells_told):
                continue
            return f"by {other.words}, {ahead} is surely ahead of it"
    return ""


def compare_together(
    contrasts: Sequence[Contrast], names: Sequence[tuple[str, str]], level: float
) -> list[Difference]:
    """Test differences as one family, by the largest t over all of them.

    Args:
        contrasts: the differences.
        names: what is compared in each.
        level: confidence of the family.

    Returns:
        Each with its standard error, an interval and a p-value that allow for all of them, and
        the p-value that it would have alone.
    """
    if not contrasts:
        return []
    influence_QX = np.stack([item.influence_Q for item in contrasts], axis=1)
    tests = compare_pairs([item.value for item in contrasts], influence_QX, level=level)
    return [
        Difference(
            test.value,
            test.low,
            test.high,
            spread(item.influence_Q),
            p_value=compare_pairs([item.value], item.influence_Q[:, None], level=level)[0].p_value,
            adjusted_p=test.p_value,
            first=first,
            second=second,
            num_nodes=item.num_nodes,
        )
        for test, item, (first, second) in zip(tests, contrasts, names, strict=True)
    ]
