"""Which teacher, context and method, what to distill, and what it would take to be sure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradalign.alignment import compare, pooled_of_sums
from gradalign.alignment.findings import pooled_finding, why_unsaid
from gradalign.errors import RunError
from gradalign.estimates import Arm, Difference
from gradalign.report.node_scores import Bools, Floats, NodeScores, read_scores
from gradalign.report.recommend_text import (
    control_remarks,
    headline,
    method_remark,
    part_remarks,
    settle_remarks,
    unpooled_remarks,
)
from gradalign.report.significance import (
    check_level,
    compare_arms,
    compare_teachers,
    holm,
    mean_finding,
    questions_needed,
    resamples_for,
)
from gradalign.report.summary_notes import end_remarks
from gradalign.report.verdict import (
    CONTROL_METHODS,
    Part,
    Ranked,
    Recommendation,
    Settle,
    TeacherPlace,
    above,
    role_of,
)

if TYPE_CHECKING:
    from gradalign.report.report import Report


def recommend(report: Report, *, level: float = 0.95) -> Recommendation:
    """Judge a run; see Recommendation.

    Args:
        report: a finished run.
        level: confidence; comparisons are corrected by Holm's method within each family (all
            arms against the best candidate; all pairs of teachers).

    Raises:
        RunError: the run has no alignment of any teacher.
        UsageError: `level` is not in [0.5, 1).
    """
    check_level(level)
    scores = read_scores(report)
    candidates = [arm for arm in scores.arms if role_of(arm) == "candidate"]
    if not candidates:
        raise RunError(
            f"{report.path} holds no teacher to judge: no method looks at one, or none was shown a "
            "question.",
            "Score a teacher with a method that looks at one, and a context that has something to "
            "show.",
        )
    seed = int(report.metadata.get("config", {}).get("seed", 0))
    ranking = _rank(scores, seed, level)
    best = next((item for item in ranking if item.role == "candidate" and item.pooled.known), None)
    places, pairs = _teachers(scores, seed, level)
    leader = None if best is None else Arm(best.teacher, best.method)
    parts, contrasts = ((), ()) if leader is None else _parts(scores, leader, seed, level)
    open_pairs = _open(ranking, places, pairs, best, level)
    verdict, teacher = _verdict(ranking, places, pairs, best, level)
    equals = _equals(ranking, best, level)
    settle = _settle(report, open_pairs, len(scores.questions), level)
    reasons = _reasons(scores, candidates)
    sentence = headline(verdict, teacher, best, places, pairs, level, reasons)
    remarks = [
        *unpooled_remarks(report.metadata.get("totals", {}), best, reasons),
        *method_remark(best, equals, ranking, verdict),
        *control_remarks(ranking, best, level),
        *part_remarks(parts, contrasts, level),
        *settle_remarks(settle, len(scores.questions)),
        *end_remarks(report.metadata),
    ]
    return Recommendation(
        verdict=verdict,
        teacher=teacher,
        methods=tuple(equals) if verdict != "none" else (),
        headline=sentence,
        remarks=tuple(remarks),
        ranking=ranking,
        teachers=places,
        teacher_pairs=pairs,
        parts=parts,
        contrasts=contrasts,
        settle=settle,
        level=level,
    )


def _reasons(scores: NodeScores, arms: Sequence[Arm]) -> set[str]:
    """Return why arms have no pooled alignment."""
    sums = [_own_sums(scores, arm) for arm in arms]
    return {why_unsaid(sums_QY, pooled_finding(sums_QY)) for sums_QY in sums} - {""}


def _own_sums(scores: NodeScores, arm: Arm, inside_N: Bools | None = None) -> Floats:
    """Return the sums of the questions that have such a node, [Q, POOLING]."""
    there_N = scores.there(arm) if inside_N is None else scores.there(arm) & inside_N
    sums_QY = scores.sums(arm, there_N)
    return sums_QY[np.bincount(scores.question_N[there_N], minlength=len(sums_QY)) > 0]


def _rank(scores: NodeScores, seed: int, level: float) -> tuple[Ranked, ...]:
    found = []
    for arm in scores.arms:
        estimate = pooled_finding(_own_sums(scores, arm), level=level)
        found.append((arm, estimate, int(scores.there(arm).sum())))
    known = [item for item in found if item[1].known]
    unknown = [item for item in found if not item[1].known]
    known.sort(key=lambda item: -item[1].value)
    leader = next((arm for arm, _, _ in known if role_of(arm) == "candidate"), None)
    against: dict[Arm, Difference] = {}
    if leader is not None:
        others = [arm for arm, _, _ in known if arm != leader]
        against = dict(
            zip(
                others,
                _corrected(
                    compare_arms(scores, arm, leader, seed=seed, level=level) for arm in others
                ),
                strict=True,
            )
        )
    return tuple(
        Ranked(
            rank=rank,
            teacher=arm.teacher,
            method=arm.method,
            role=role_of(arm),
            pooled=estimate,
            num_nodes=num_nodes,
            against_leader=against.get(arm),
        )
        for rank, (arm, estimate, num_nodes) in enumerate([*known, *unknown], start=1)
    )


def _teachers(
    scores: NodeScores, seed: int, level: float
) -> tuple[tuple[TeacherPlace, ...], tuple[Difference, ...]]:
    """Rank teachers by their mean over the methods that all of them have; compare all pairs."""
    methods_of: dict[str, list[str]] = {}
    for arm in scores.arms:
        if arm.teacher and arm.method.partition(":")[0] not in CONTROL_METHODS:
            methods_of.setdefault(arm.teacher, []).append(arm.method)
    shared = _shared(scores, methods_of)
    places = []
    for teacher in methods_of:
        arms = [Arm(teacher, method) for method in shared]
        if not arms:
            continue
        sums_QY = np.concatenate([scores.sums(arm) for arm in arms], axis=1)
        seen_N = scores.there(*arms)
        sums_QY = sums_QY[np.bincount(scores.question_N[seen_N], minlength=len(sums_QY)) > 0]
        estimate = mean_finding(sums_QY, level=level)
        places.append(TeacherPlace(teacher, role_of(arms[0]), estimate))
    places.sort(key=lambda place: -place.mean.value if place.mean.known else math.inf)
    names = [place.teacher for place in places]
    pairs = _corrected(
        compare_teachers(scores, first, second, shared, seed=seed, level=level)
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    )
    return tuple(places), tuple(pairs)


def _shared(scores: NodeScores, methods_of: dict[str, list[str]]) -> list[str]:
    """Return the methods that every teacher has with a defined pooled alignment."""
    if not methods_of:
        return []
    first, *rest = methods_of.values()
    return [
        method
        for method in first
        if all(method in other for other in rest)
        and all(
            np.isfinite(pooled_of_sums(scores.sums(Arm(teacher, method)).sum(axis=0)))
            for teacher in methods_of
        )
    ]


def _corrected(pairs: Iterable[Difference]) -> list[Difference]:
    family = list(pairs)
    adjusted = holm([pair.p_value for pair in family])
    return [replace(pair, adjusted_p=p) for pair, p in zip(family, adjusted, strict=True)]


SPLITS = ("correct", "incorrect", "position:", "entropy:")


def _parts(
    scores: NodeScores, leader: Arm, seed: int, level: float
) -> tuple[tuple[Part, ...], tuple[Difference, ...]]:
    splits = scores.splits()
    here_N = scores.there(leader)
    total = float(scores.weight_N[here_N].sum())
    parts = []
    for name, inside_N in splits.items():
        if not name.startswith(SPLITS):
            continue
        inside_N = inside_N & here_N
        sums_QY = _own_sums(scores, leader, inside_N)
        if not len(sums_QY):
            continue
        found = pooled_finding(sums_QY, part=True, level=level)
        parts.append(
            Part(
                split=name,
                share=float(scores.weight_N[inside_N].sum()) / total,
                pooled=found,
            )
        )
    pairs = [
        _contrast(scores, leader, first, second, seed, level)
        for first, second in (
            ("correct", "incorrect"),
            ("position:0-25%", "position:75-100%"),
            ("entropy:high", "entropy:low"),
        )
    ]
    return tuple(parts), tuple(_corrected(pairs))


def _contrast(
    scores: NodeScores, arm: Arm, first: str, second: str, seed: int, level: float
) -> Difference:
    """Compare two parts of the tokens, questions resampled together."""
    splits = scores.splits()
    sums = [scores.sums(arm, splits[name]) for name in (first, second)]
    result = compare(
        sums[0],
        sums[1],
        pooled_of_sums,
        seed=seed,
        num_resamples=resamples_for(len(sums[0])),
        level=level,
    )
    num_nodes = int((scores.there(arm) & (splits[first] | splits[second])).sum())
    return replace(result, first=first, second=second, num_nodes=num_nodes, se=math.nan)


def _verdict(
    ranking: Sequence[Ranked],
    places: Sequence[TeacherPlace],
    pairs: Sequence[Difference],
    best: Ranked | None,
    level: float,
) -> tuple[Literal["winner", "tie", "none"], str | None]:
    controls = [item for item in ranking if item.role == "control"]
    if best is None or not best.pooled.positive or not above(best, controls, level):
        return "none", None
    top = next((place for place in places if place.role == "candidate"), None)
    if top is None or top.teacher != best.teacher:
        return "tie", best.teacher
    rivals = [place.teacher for place in places if place.role == "candidate"][1:]
    beaten = {
        pair.second for pair in pairs if pair.first == top.teacher and pair.significant(level)
    }
    return ("winner" if set(rivals) <= beaten else "tie"), best.teacher


def _equals(ranking: Sequence[Ranked], best: Ranked | None, level: float) -> list[str]:
    """Methods of the best candidate's teacher that are not surely worse than its best."""
    return [
        item.method
        for item in ranking
        if best is not None
        and item.teacher == best.teacher
        and item.role == "candidate"
        and (item.against_leader is None or not item.against_leader.significant(level))
        and item.pooled.known
    ]


def _open(
    ranking: Sequence[Ranked],
    places: Sequence[TeacherPlace],
    pairs: Sequence[Difference],
    best: Ranked | None,
    level: float,
) -> list[tuple[Difference, int]]:
    """Comparisons that matter and are not decided, each with the size of its family."""
    if best is None:
        return []
    undecided: list[tuple[Difference, int]] = []
    names = [place.teacher for place in places if place.role == "candidate"]
    if len(names) > 1:
        undecided += [
            (pair, len(pairs))
            for pair in pairs
            if pair.first == names[0]
            and pair.second in names
            and not pair.significant(level)
            and math.isfinite(pair.p_value)
        ][:1]
    family = sum(item.against_leader is not None for item in ranking)
    for keep in ("control", "candidate"):
        undecided += [
            (item.against_leader, family)
            for item in ranking
            if item.against_leader is not None
            and item.role == keep
            and (keep == "control" or item.teacher == best.teacher)
            and not item.against_leader.significant(level)
            and math.isfinite(item.against_leader.p_value)
        ][:1]
    return undecided


def _settle(
    report: Report, undecided: Sequence[tuple[Difference, int]], num_questions: int, level: float
) -> tuple[Settle, ...]:
    totals = report.metadata.get("totals", {})
    rollouts = totals.get("continuations", 0) / max(num_questions, 1)
    stages = report.metadata.get("stages", {})
    seconds = sum(stage["seconds"] for stage in stages.values()) / max(num_questions, 1)
    out = []
    for pair, family in undecided:
        questions = questions_needed(pair, num_questions, level, family)
        extra = (
            max(math.ceil(questions) - num_questions, 1) if math.isfinite(questions) else math.nan
        )
        out.append(
            Settle(
                open=pair,
                questions=questions,
                extra_questions=extra,
                extra_rollouts=extra * rollouts,
                extra_seconds=extra * seconds,
            )
        )
    return tuple(out)
