"""Was the leading teacher told, or does it know? By the share of its update that questions share.

A teacher that is shown the answer pushes every question its own way: little of what it would change
in the weights is common to two questions, and training keeps only that. A teacher that sees what
the student sees pushes them alike. So the share s / (s + v_q) of the leader's update is set against
that of the best teacher of the other kind, with the same method and on the same questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradalign.estimates import Arm
from gradalign.report.verdict.bases import Contrast, per_question
from gradalign.report.verdict.families import compare_together
from gradalign.report.verdict.recommendation import Judgement, Shared, is_told

if TYPE_CHECKING:
    from gradalign.report.report import Report


def shared_of(report: Report, found: Judgement, level: float) -> Shared | None:
    """Return it for a run's leader; None without `--alignment weights`, or without a value.

    Args:
        report: the run.
        found: its judgement.
        level: confidence of the difference.
    """
    if found.leader is None or "weights" not in report.metadata["config"].get("alignment", ()):
        return None
    known = per_question(report, "weights_shared_share", "weights_share_influence")
    if known is None or found.leader not in known[0]:
        return None
    shares, influences = known
    arm, told = found.leader, is_told(found.leader.teacher)
    for place in found.teachers:
        other = Arm(place.teacher, arm.method)
        if other in shares and is_told(other.teacher) != told:
            contrast = Contrast(
                shares[arm].value - shares[other].value, influences[arm] - influences[other], 0
            )
            names = [(arm.teacher, other.teacher)]
            (difference,) = compare_together([contrast], names, level)
            return Shared(arm, told, shares[arm], other.teacher, shares[other], difference)
    return Shared(arm, told, shares[arm])
