"""Nodes of a run side by side for every teacher and method, and their sums per question.

Comparisons are made on the same nodes: two arms (a teacher with a method) differ in what they
say of a node, not in which nodes they saw. Pages and exports read the stored directions here.
Axes: _A arms, _N nodes, _C candidates, _Q questions, _Y sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign.alignment.ideal import renormalise
from gradalign.alignment.scores import pooling_columns
from gradalign.analysis.node_views import read_directions, read_nodes
from gradalign.estimates import Arm
from gradalign.store.splits import (
    entropy_edges,
    entropy_splits,
    outcome_splits,
    position_splits,
)

if TYPE_CHECKING:
    from gradalign.report.report import Report

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class NodeScores:
    """What pooling needs of every node, for every arm.

    Attributes:
        arms: the arms, in the order of the run.
        questions: ids of the questions, sorted.
        node_id_N: the nodes' ids, sorted.
        question_N: index of each node's question.
        weight_N: 1 / inclusion probability.
        correct_N: whether the node's spine is correct; None where it is not known.
        relative_position_N: 0 at the first token of the spine, 1 at the last.
        entropy_N: the student's entropy, nats.
        dot_AN, ideal_norm2_AN, method_norm2_AN: NaN where the arm has no such node; |g*|^2 is on
            the candidates that the arm's teacher knows.
    """

    arms: tuple[Arm, ...]
    questions: tuple[str, ...]
    node_id_N: npt.NDArray[np.object_]
    question_N: Ints
    weight_N: Floats
    correct_N: npt.NDArray[Any]
    relative_position_N: Floats
    entropy_N: Floats
    dot_AN: Floats
    ideal_norm2_AN: Floats
    method_norm2_AN: Floats

    def there(self, *arms: Arm) -> Bools:
        """Nodes that every one of the arms has, [N]."""
        rows = [self.arms.index(arm) for arm in arms]
        return np.asarray(np.isfinite(self.dot_AN[rows]).all(axis=0))

    def sums(self, arm: Arm, inside_N: Bools | None = None) -> Floats:
        """Sum what pooling needs per question over some nodes, [Q, POOLING]; 0 where none are.

        Args:
            arm: whose nodes.
            inside_N: which nodes; those that the arm lacks are left out anyway.
        """
        row = self.arms.index(arm)
        keep_N = self.there(arm) if inside_N is None else self.there(arm) & inside_N
        norms = (self.ideal_norm2_AN[row], self.method_norm2_AN[row])
        columns = (self.dot_AN[row], *norms, self.weight_N)
        columns_NY = pooling_columns(*(column[keep_N] for column in columns))
        return np.stack(
            [
                np.bincount(
                    self.question_N[keep_N], weights=column_N, minlength=len(self.questions)
                )
                for column_N in columns_NY.T
            ],
            axis=1,
        )

    def splits(self) -> dict[str, Bools]:
        """Return the named parts of the nodes, as in the summary (questions left out)."""
        return {
            **outcome_splits(self.correct_N),
            **position_splits(self.relative_position_N),
            **entropy_splits(self.entropy_N, entropy_edges(self.entropy_N)),
        }


_ABOUT = (
    "question_id",
    "node_id",
    "correct",
    "relative_position",
    "inclusion_prob",
    "student_entropy",
)


_MEASURED = ("dot", "ideal_norm2", "method_norm2")


def arms_in(table: pd.DataFrame) -> list[Arm]:
    """Return the arms that a table with the columns teacher and method has, as they first come."""
    names = zip(table["teacher"], table["method"], strict=True)
    return [Arm(str(teacher), str(method)) for teacher, method in dict.fromkeys(names)]


def read_scores(report: Report) -> NodeScores:
    """Read a run's alignments as arrays."""
    columns = ["teacher", "method", "node_id", *_MEASURED]
    table = report.table("alignment", columns)
    masked = bool(report.metadata.get("config", {}).get("mask_special"))
    about = report.table("nodes", [*_ABOUT, *(["special"] if masked else [])])
    about = about.assign(node_id=about["node_id"].astype(object)).sort_values("node_id")
    node_id_N = about["node_id"].to_numpy(dtype=object)
    keys = pd.MultiIndex.from_frame(table[["teacher", "method"]].drop_duplicates())
    arms = tuple(Arm(str(teacher), str(method)) for teacher, method in keys)
    at = keys.get_indexer(pd.MultiIndex.from_frame(table[["teacher", "method"]]))
    column = pd.Index(node_id_N).get_indexer(pd.Index(table["node_id"].astype(object)))
    known = column >= 0
    measured = {name: np.full((len(arms), len(node_id_N)), np.nan) for name in _MEASURED}
    for name, found_AN in measured.items():
        found_AN[at[known], column[known]] = table[name].to_numpy(dtype=np.float64)[known]
    dot_AN = measured["dot"]
    if masked:  # such a run leaves nodes at special tokens out of every split
        dot_AN[:, about["special"].to_numpy(dtype=np.bool_)] = np.nan
    questions, question_N = np.unique(
        about["question_id"].astype(object).to_numpy(dtype=object).astype(str), return_inverse=True
    )
    return NodeScores(
        arms=arms,
        questions=tuple(str(question) for question in questions),
        node_id_N=node_id_N,
        question_N=question_N.astype(np.int64),
        weight_N=1.0 / about["inclusion_prob"].to_numpy(dtype=np.float64),
        correct_N=about["correct"].to_numpy(),
        relative_position_N=about["relative_position"].to_numpy(dtype=np.float64),
        entropy_N=about["student_entropy"].to_numpy(dtype=np.float64),
        dot_AN=dot_AN,
        ideal_norm2_AN=measured["ideal_norm2"],
        method_norm2_AN=measured["method_norm2"],
    )


@dataclass(frozen=True, eq=False)
class ShardDirections:
    """One arm's directions in one shard.

    Attributes:
        arm: teacher and method.
        node_ids: the nodes, [N].
        token_NC: the candidates, -1 at padding.
        ascent_NC: the method's expected direction on the candidates; 0 at padding and where
            nothing is known of the teacher's probability.
        length_N: of the whole direction, over all tokens.
        dot_se_N: standard error of g* . m from the noise of the values, the direction taken as
            known: sqrt(sum_j (p~_j (m_j - sum_k p~_k m_k))^2 Var V_j), over the candidates that
            the direction is known of.
    """

    arm: Arm
    node_ids: list[str]
    token_NC: npt.NDArray[np.int64]
    ascent_NC: Floats
    length_N: Floats
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
    for arm, (rows_N, known_NC, other_N) in read_directions(report.folder, shard, nodes).items():
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
            length_N=np.sqrt((m_NC**2).sum(axis=1) + other_N),
            dot_se_N=np.sqrt((pull_NC**2 * var_NC).sum(axis=1)),
        )
