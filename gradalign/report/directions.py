"""Where every method points at a node's candidates, computed again from what is stored.

A run keeps what a comparison needs of a direction (its product with the ideal gradient and its
length), not the direction itself: that would be one number per node, candidate, teacher and
method. Pages and exports that show or use it get it here, shard by shard. Axes: _N nodes, _C
candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradalign.errors import RunError
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
        ascent_NC: the method's expected direction restricted to the candidates, 0 at padding.
        dot_se_N: standard error of g* . m from the noise of the values, the direction taken as
            known: sqrt(sum_j (p~_j (m_j - sum_k p~_k m_k))^2 Var V_j).
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
        RunError: run.json does not say how the run was made.
    """
    # The stages stand above the report in the order of imports; only this function looks up.
    from gradalign import methods
    from gradalign.analysis.align import NO_TEACHER, on_candidates
    from gradalign.analysis.node_views import read_nodes, student_only, with_teacher
    from gradalign.stages.base import Resolved, Run
    from gradalign.stages.distributions import tempering

    if "resolved" not in report.metadata:
        raise RunError(
            f"{report.path}/run.json is incomplete.", "Give a folder of `gradalign score`."
        )
    stored = dict(report.metadata["resolved"])
    stored["stop_token_ids"] = tuple(stored["stop_token_ids"])
    config = report.config.model_copy(update={"output_dir": report.path})
    run = Run(config, Resolved(**stored))
    nodes = read_nodes(run, shard)
    wanted: dict[str, list[methods.Method]] = {}
    for spec in config.methods:
        method = methods.get(spec)
        needs_teacher = "teacher" in method.needs
        labels = [t.label for t in run.teachers] if needs_teacher else [NO_TEACHER]
        for label in labels:
            if arms is None or Arm(label, method.spec) in arms:
                wanted.setdefault(label, []).append(method)
    for label, chosen in wanted.items():
        if label == NO_TEACHER:
            view = student_only(run, shard, nodes)
        else:
            view = with_teacher(run, shard, nodes, label, tempering(run))
        mask_NC = nodes.mask_NC[view.rows]
        prob_NC = np.where(mask_NC, nodes.prob_NC[view.rows], 0.0)
        total_N1 = prob_NC.sum(axis=1, keepdims=True)
        p_NC = prob_NC / np.where(total_N1 > 0, total_N1, 1.0)
        var_NC = np.where(mask_NC, np.maximum(nodes.var_NC[view.rows], 0.0), 0.0)
        node_ids = nodes.ids("node_id")
        for method in chosen:
            m_NC = on_candidates(method.direction(view.batch).ascent_NS, view, mask_NC)
            mean_N1 = (p_NC * m_NC).sum(axis=1, keepdims=True)
            pull_NC = p_NC * (m_NC - mean_N1)
            yield ShardDirections(
                arm=Arm(label, method.spec),
                node_ids=[node_ids[row] for row in view.rows],
                token_NC=nodes.token_NC[view.rows],
                ascent_NC=m_NC,
                dot_se_N=np.sqrt((pull_NC**2 * var_NC).sum(axis=1)),
            )
