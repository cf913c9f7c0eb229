"""Alignment: how well a method's direction agrees with the ideal gradient, and how surely.

Per node: `cosine`, `node_sums`, `cross_fit`. Over nodes: `pooled`, `mean_alignment`, `balanced`.
Intervals: `question_sums`, `cluster_bootstrap`, `compare`.
"""

from gradalign.alignment.bootstrap import (
    cluster_bootstrap,
    compare,
    question_sums,
)
from gradalign.alignment.scores import (
    Cosines,
    NodeSums,
    balanced,
    cosine,
    cross_fit,
    mean_alignment,
    mean_of_sums,
    node_sums,
    pooled,
    pooled_of_sums,
)

__all__ = [
    "Cosines",
    "NodeSums",
    "balanced",
    "cluster_bootstrap",
    "compare",
    "cosine",
    "cross_fit",
    "mean_alignment",
    "mean_of_sums",
    "node_sums",
    "pooled",
    "pooled_of_sums",
    "question_sums",
]
