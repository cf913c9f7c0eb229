"""The stored directions of a run, shard by shard, as pages and exports need them.

Axes: _N nodes, _C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradalign.analysis.node_views import read_directions, read_nodes
from gradalign.ideal import renormalise
from gradalign.report.node_scores import Arm

if TYPE_CHECKING:
    from gradalign.report.report import Report

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShardDirections:
    """One arm's directions in one shard.

    Attributes:
        arm: teacher and method.
        node_ids: the nodes, [N].
        token_NC: the candidates, -1 at padding.
        ascent_NC: the method's expected direction restricted to the candidates; 0 at padding
            and where nothing is known of the teacher's probability.
        dot_se_N: standard error of g* . m from the noise of the values, the direction taken as
            known: sqrt(sum_j (p~_j (m_j - sum_k p~_k m_k))^2 Var V_j), over the candidates that
            the direction is known of.
    """

    arm: Arm
    node_ids: list[str]
    token_NC: npt.NDArray[np.int64]
    ascent_NC: Floats
    dot_se_N: Floats


def directions(
    report: Report, shard: str, arms: list[Arm] | None = None
) -> Iterator[ShardDirections]:
    """Yield the directions of a shard, arm by arm.

    Args:
        report: a run whose alignment is there.
        shard: name of the shard, as `report.shards` gives it.
        arms: which; all of the run's by default.

    Raises:
        RunError: a table is missing or torn.
    """
    nodes = read_nodes(report.folder, shard)
    node_ids = nodes.ids("node_id")
    for (teacher, method), (rows_N, known_NC) in read_directions(
        report.folder, shard, nodes
    ).items():
        arm = Arm(teacher, method)
        if arms is not None and arm not in arms:
            continue
        mask_NC = nodes.mask_NC[rows_N] & np.isfinite(known_NC)
        m_NC = np.where(mask_NC, known_NC, 0.0)
        p_NC = renormalise(nodes.prob_NC[rows_N], mask_NC)
        var_NC = np.where(mask_NC, np.maximum(nodes.var_NC[rows_N], 0.0), 0.0)
        pull_NC = p_NC * (m_NC - (p_NC * m_NC).sum(axis=1, keepdims=True))
        yield ShardDirections(
            arm=arm,
            node_ids=[node_ids[row] for row in rows_N],
            token_NC=nodes.token_NC[rows_N],
            ascent_NC=m_NC,
            dot_se_N=np.sqrt((pull_NC**2 * var_NC).sum(axis=1)),
        )
