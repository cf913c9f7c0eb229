"""Every method's direction against the ideal gradient, node by node."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign import methods
from gradalign.alignment.ideal import teacher_advantage
from gradalign.analysis.derivatives import AlongIdeal, read_derivatives
from gradalign.analysis.node_views import Bools, NodeTable, NodeView, ShardViews
from gradalign.analysis.scoring import NodeScores, score_arm
from gradalign.estimates import Arm
from gradalign.methods import BestMixture, Method
from gradalign.stages.base import Run
from gradalign.store.table_builder import Rows

TABLES = ("branch_teachers", "directions", "alignment")

NO_TEACHER = ""
"""The `teacher` under which methods are filed that look at none."""


@dataclass(frozen=True)
class AlignmentTables:
    """Write every method's direction at every node, and its cosine with the ideal gradient.

    Tables: `branch_teachers`, `directions`, and last `alignment`.
    """

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's directions and alignments are there."""
        if not all(run.folder.has_table(name, shard) for name in TABLES):
            return False
        # Tables of an older version know of the candidates alone, or not of the weights.
        if "other_ids" not in run.folder.read_table("directions", shard).column_names:
            return False
        table = run.folder.read_table("alignment", shard)
        return "weights" not in run.config.alignment or "weights_dot" in table.column_names

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
        slopes = None
        if "weights" in run.config.alignment:
            slopes = read_derivatives(run.folder, views.shard, nodes)
        tables = {name: Rows(name) for name in TABLES}
        arms = arms_of(run)
        for label in (NO_TEACHER, *(teacher.label for teacher in run.teachers)):
            chosen = [methods.get(spec) for teacher, spec in arms if teacher == label]
            if label != NO_TEACHER:
                _add_probs(tables["branch_teachers"], nodes, views.teacher(label), label)
            for method in chosen:
                view, scores = score_arm(views, Arm(label, method.spec))
                _add_directions(tables["directions"], nodes, view, label, method, scores)
                along = None if slopes is None else slopes.along(scores.whole)
                _add_alignment(tables["alignment"], nodes, view, label, method, scores, along)
        for name, rows in tables.items():
            run.folder.write_table(name, views.shard, rows.table_of())
        return Counter(alignments=len(arms) * len(nodes.row_of))


def question_ids(run: Run) -> list[str]:
    """Return the questions in the order of influences."""
    return [
        str(question)
        for shard in run.shards()
        for question in run.folder.read_table("questions", shard)["question_id"].to_pylist()
    ]


def arms_of(run: Run) -> list[Arm]:
    """Return the arm of every direction of a run, those without a teacher first.

    A teacher has none of a method that needs more of it than is known (`Run.why_left_out`).
    """
    chosen = [methods.get(spec) for spec in run.config.methods]
    labels = (NO_TEACHER, *(teacher.label for teacher in run.teachers))
    return [
        Arm(label, method.spec)
        for label in labels
        for method in chosen
        if not isinstance(method, BestMixture)
        and method.of_teacher == (label != NO_TEACHER)
        and not (label != NO_TEACHER and run.why_left_out(label, method))
    ]


def _add_alignment(
    rows: Rows,
    nodes: NodeTable,
    view: NodeView,
    label: str,
    method: Method,
    scores: NodeScores,
    along: AlongIdeal | None,
) -> None:
    at = view.rows
    mask_NC = view.mask_NC
    names = {name: nodes.ids(name) for name in ("question_id", "spine_id", "node_id")}
    rows.add(
        len(at),
        question_id=[names["question_id"][n] for n in at],
        spine_id=[names["spine_id"][n] for n in at],
        position=nodes.column("position")[at],
        node_id=[names["node_id"][n] for n in at],
        teacher=label,
        method=method.spec,
        correct=nodes.column("correct")[at],
        weight=1.0 / nodes.column("inclusion_prob")[at],
        cosine=scores.cosine,
        reason=list(scores.reason),
        dot=scores.dot,
        dot_bound=scores.dot_bound,
        ideal_norm2=scores.ideal_norm2,
        method_norm2=scores.method_norm2,
        norm_on_support=scores.norm_on_support,
        teacher_advantage=(
            teacher_advantage(nodes.prob_NC[at], view.q_NC, nodes.value_NC[at], mask_NC)
            if label != NO_TEACHER
            else np.full(len(at), np.nan)
        ),
        sampled_cosine=scores.sampled_cosine,
        sampled_variance_ratio=scores.sampled_variance_ratio,
        weights_dot=math.nan if along is None else along.dot_N,
        weights_outside=math.nan if along is None else along.outside_N,
    )


def _add_directions(
    rows: Rows, nodes: NodeTable, view: NodeView, label: str, method: Method, scores: NodeScores
) -> None:
    """Add a row per node; a candidate of which the teacher's server said nothing is null."""
    at = view.rows
    candidate_NC = nodes.token_NC[at] >= 0
    unknown_NC = nodes.mask_NC[at] & ~view.mask_NC
    inside_NC = np.where(unknown_NC, np.nan, scores.whole.inside_NC)
    slot_NX = scores.whole.others()
    there_NX = slot_NX >= 0
    ids_NX = np.take_along_axis(view.batch.ids_NS, np.maximum(slot_NX, 0), axis=1)
    question_ids, node_ids = nodes.ids("question_id"), nodes.ids("node_id")
    kept_NX = np.concatenate([candidate_NC, there_NX], axis=1)
    halves = [
        _lists(np.concatenate([half.inside_NC, half.at(slot_NX)], axis=1), kept_NX)
        for half in scores.halves
    ] or [pa.nulls(len(at), pa.list_(pa.float64()))] * 2
    rows.add(
        len(at),
        question_id=[question_ids[n] for n in at],
        node_id=[node_ids[n] for n in at],
        teacher=label,
        method=method.spec,
        direction=_lists(inside_NC, candidate_NC),
        other_ids=_lists(ids_NX.astype(np.int32), there_NX),
        other_direction=_lists(scores.whole.at(slot_NX), there_NX),
        half0=halves[0],
        half1=halves[1],
    )


def _lists(values_NX: npt.NDArray[Any], keep_NX: Bools) -> pa.ListArray:
    """Return the kept values of every row as a list; NaN becomes null."""
    offsets = np.concatenate([[0], np.cumsum(keep_NX.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values_NX[keep_NX], from_pandas=True)
    )


def _add_probs(rows: Rows, nodes: NodeTable, view: NodeView, label: str) -> None:
    mask_NC = nodes.mask_NC[view.rows]
    row, column = np.nonzero(mask_NC)
    question_ids, node_ids = nodes.ids("question_id"), nodes.ids("node_id")
    rows.add(
        len(row),
        question_id=[question_ids[view.rows[n]] for n in row],
        node_id=[node_ids[view.rows[n]] for n in row],
        token_id=nodes.token_NC[view.rows][row, column],
        teacher=label,
        teacher_prob=view.q_NC[row, column],
    )
