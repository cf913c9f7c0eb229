"""Which tokens to distill: parts of the responses under the leader, and how they differ."""

from __future__ import annotations

import numpy as np

from gradalign.alignment import pooled_of_sums
from gradalign.alignment.fieller import pooled_influence
from gradalign.alignment.findings import pooled_finding
from gradalign.estimates import Arm, Difference
from gradalign.report.node_scores import NodeScores
from gradalign.report.verdict.bases import Contrast, own_sums
from gradalign.report.verdict.families import compare_together
from gradalign.report.verdict.recommendation import Part

SPLITS = ("correct", "incorrect", "position:", "entropy:")

CONTRASTS = (
    ("correct", "incorrect"),
    ("position:0-25%", "position:75-100%"),
    ("entropy:high", "entropy:low"),
)


def parts_of(
    scores: NodeScores, leader: Arm, *, level: float
) -> tuple[tuple[Part, ...], tuple[Difference, ...]]:
    """Return the parts of an arm's tokens, and what the questions say of their differences.

    Args:
        scores: the run's nodes.
        leader: the arm.
        level: confidence; the differences are a family of their own.
    """
    splits = scores.splits()
    here_N = scores.there(leader)
    total = float(scores.weight_N[here_N].sum())
    parts = []
    for name, inside_N in splits.items():
        if not name.startswith(SPLITS):
            continue
        sums_QY = own_sums(scores, leader, inside_N)
        if len(sums_QY):
            share = float(scores.weight_N[inside_N & here_N].sum()) / total
            parts.append(Part(name, share, pooled_finding(sums_QY, part=True, level=level)))
    pairs = [pair for pair in CONTRASTS if all(name in splits for name in pair)]
    contrasts = [_contrast(scores, leader, *pair) for pair in pairs]
    return tuple(parts), tuple(compare_together(contrasts, pairs, level))


def _contrast(scores: NodeScores, arm: Arm, first: str, second: str) -> Contrast:
    """Compare two parts of the tokens, question by question."""
    splits = scores.splits()
    value, influence_Q = 0.0, np.zeros(len(scores.questions))
    for name, sign in ((first, 1.0), (second, -1.0)):
        sums_QY = scores.sums(arm, splits[name])
        value += sign * float(pooled_of_sums(sums_QY.sum(axis=0)))
        influence_Q = influence_Q + sign * pooled_influence(sums_QY)
    inside_N = splits[first] | splits[second]
    return Contrast(value, influence_Q, int((scores.there(arm) & inside_N).sum()))
