"""What the diagnostics of nodes share: key columns, and a direction against the ideal gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradalign.alignment import cosine, node_sums
from gradalign.analysis.align import on_candidates
from gradalign.analysis.node_views import Floats, Ints, ShardNodes, TeacherNodes
from gradalign.ideal import ideal_gradient, unbiased_norm2


@dataclass(frozen=True, eq=False)
class Scored:
    """A direction that uses no continuations, against the ideal gradient, [N]."""

    cosine: Floats
    dot: Floats
    method_norm2: Floats


def against_ideal(nodes: ShardNodes, view: TeacherNodes, ascent_NS: Floats) -> Scored:
    """Compare a direction on a view's support with the ideal gradient; NaN rows count as zero."""
    at = view.rows
    prob_NC, value_NC, mask_NC = nodes.prob_NC[at], nodes.value_NC[at], view.mask_NC
    m_NC = on_candidates(ascent_NS, view, mask_NC)
    sums = node_sums(prob_NC, value_NC, nodes.var_NC[at], m_NC, mask_NC)
    return Scored(
        cosine=cosine(ideal_gradient(prob_NC, value_NC, mask_NC), m_NC).value_N,
        dot=sums.dot_N,
        method_norm2=sums.method_norm2_N,
    )


def key_columns(nodes: ShardNodes, at: Ints) -> dict[str, Any]:
    """Return the columns by which some of a shard's nodes join with other tables."""
    return {
        **{
            name: [ids[n] for n in at]
            for name in ("question_id", "spine_id", "node_id")
            for ids in [nodes.ids(name)]
        },
        "position": nodes.column("position")[at],
        "correct": nodes.column("correct")[at],
    }


def ideal_columns(nodes: ShardNodes, view: TeacherNodes) -> dict[str, Any]:
    """Return what pooling needs besides the direction; |g*|^2 is on the view's candidates."""
    at = view.rows
    return {
        "weight": np.asarray(1.0 / nodes.column("inclusion_prob")[at]),
        "ideal_norm2": unbiased_norm2(
            nodes.prob_NC[at], nodes.value_NC[at], nodes.var_NC[at], view.mask_NC
        ),
    }
