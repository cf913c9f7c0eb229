"""From a run to its verdict: bases, families, parts of the tokens, and what is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradalign.alignment.findings import pooled_finding, why_unsaid
from gradalign.errors import RunError
from gradalign.estimates import Arm, Difference
from gradalign.report.node_scores import NodeScores, read_scores
from gradalign.report.significance import check_level
from gradalign.report.summary_notes import end_remarks
from gradalign.report.verdict.bases import Basis, Pooled, bases_of, own_sums
from gradalign.report.verdict.families import judge
from gradalign.report.verdict.parts import parts_of
from gradalign.report.verdict.recommendation import Judgement, Ranked, Recommendation, role_of
from gradalign.report.verdict.sentences import (
    basis_remarks,
    control_remarks,
    direction_remarks,
    headline,
    information_remarks,
    method_remark,
    part_remarks,
    rehearsal_remarks,
    settle_remarks,
    shared_remarks,
    unpooled_remarks,
)
from gradalign.report.verdict.settle import settle_of
from gradalign.report.verdict.told import shared_of

if TYPE_CHECKING:
    from gradalign.report.report import Report


def recommend(report: Report, *, level: float = 0.95) -> Recommendation:
    """Judge a run; see Recommendation.

    Args:
        report: a finished run.
        level: confidence, of each family of comparisons.

    Raises:
        RunError: the run is not finished, or has no alignment of any teacher.
        UsageError: `level` is not in [0.5, 1).
    """
    check_level(level)
    report.check_finished()
    scores = read_scores(report)
    candidates = [arm for arm in scores.arms if role_of(arm) == "candidate"]
    if not candidates:
        raise RunError(
            f"{report.path} holds no teacher to judge: no method looks at one, or none was shown a "
            "question.",
            "Score a teacher with a method that looks at one, and a context that has something to "
            "show.",
        )
    bases = bases_of(report, scores)
    found = judge(bases, scores.arms, level=level)
    basis = next(basis for basis in bases if basis.name == found.basis)
    ranking = _rank(scores, basis, found, level)
    parts, contrasts = (
        ((), ()) if found.leader is None else parts_of(scores, found.leader, level=level)
    )
    shared = shared_of(report, found, level)
    settle = settle_of(report, found, len(scores.questions), level)
    evidence = control_remarks(found, ranking, level)
    reasons = _reasons(scores, candidates) if found.leader is None else set()
    return Recommendation(
        verdict=found.verdict,
        basis=found.basis,
        teacher=None if found.verdict == "none" or not found.leader else found.leader.teacher,
        methods=() if found.verdict == "none" else found.equals(level),
        headline=headline(found, basis, ranking, level, reasons),
        evidence=tuple(evidence),
        remarks=(
            *unpooled_remarks(report.metadata.get("totals", {}), found, reasons),
            *basis_remarks(found, basis, ranking),
            *rehearsal_remarks(found, report.curves),
            *method_remark(found, level),
            *evidence,
            *direction_remarks(ranking),
            *information_remarks(found, level),
            *shared_remarks(shared, level),
            *part_remarks(parts, contrasts, level),
            *settle_remarks(found, settle, len(scores.questions)),
            *end_remarks(report.metadata),
        ),
        ranking=ranking,
        teachers=found.teachers,
        teacher_pairs=found.teacher_pairs,
        controls=found.controls,
        information=found.information,
        shared=shared,
        parts=parts,
        contrasts=contrasts,
        settle=settle,
        level=level,
    )


def _reasons(scores: NodeScores, arms: Sequence[Arm]) -> set[str]:
    """Return why arms have no pooled alignment."""
    sums = [own_sums(scores, arm) for arm in arms]
    return {why_unsaid(sums_QY, pooled_finding(sums_QY)) for sums_QY in sums} - {""}


def _rank(scores: NodeScores, basis: Basis, found: Judgement, level: float) -> tuple[Ranked, ...]:
    """Rank every arm; those without a value come last."""
    pooled = Pooled(scores)
    values = {arm: basis.estimate(arm, level) for arm in scores.arms}
    known = sorted((a for a in scores.arms if values[a].known), key=lambda a: -values[a].value)
    unknown = [arm for arm in scores.arms if not values[arm].known]
    return tuple(
        Ranked(
            rank=rank,
            teacher=arm.teacher,
            method=arm.method,
            role=role_of(arm),
            value=values[arm],
            pooled=pooled.estimate(arm, level),
            num_nodes=int(scores.there(arm).sum()),
            against_leader=_against_leader(found, arm),
        )
        for rank, arm in enumerate([*known, *unknown], start=1)
    )


def _against_leader(found: Judgement, arm: Arm) -> Difference | None:
    """Return an arm minus the leader where the methods of the leading teacher were compared."""
    if found.leader is None or arm.teacher != found.leader.teacher or arm == found.leader:
        return None
    for pair in found.method_pairs:
        if (pair.first, pair.second) == (found.leader.method, arm.method):
            return replace(
                pair,
                first=arm.method,
                second=pair.first,
                value=-pair.value,
                low=-pair.high,
                high=-pair.low,
            )
    return None
