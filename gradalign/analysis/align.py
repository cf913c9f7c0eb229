"""Every method's direction against the ideal gradient, node by node."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign import methods
from gradalign.alignment import NodeSums, cosine, cross_fit, node_sums
from gradalign.alignment.ideal import ideal_gradient, teacher_advantage, unbiased_norm2
from gradalign.alignment.scores import FLAT
from gradalign.analysis.derivatives import AlongIdeal, read_derivatives
from gradalign.analysis.node_views import Bools, Floats, NodeTable, NodeView, ShardViews
from gradalign.analysis.whole import WholeDirection
from gradalign.contexts import is_delta
from gradalign.estimates import Arm
from gradalign.methods import Direction, Method
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
            elif not chosen:
                continue
            view = views.student if label == NO_TEACHER else views.teacher(label)
            for method in chosen:
                scores = score_nodes(nodes, view, method)
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

    A difference of teachers has none of a method that needs more than its distributions at nodes.
    """
    chosen = [methods.get(spec) for spec in run.config.methods]
    labels = (NO_TEACHER, *(teacher.label for teacher in run.teachers))
    return [
        Arm(label, method.spec)
        for label in labels
        for method in chosen
        if ("teacher" in method.needs) == (label != NO_TEACHER)
        and not (is_delta(label) and method.beyond_nodes)
    ]


@dataclass(frozen=True)
class NodeScores:
    """One method at every node of a view.

    Attributes:
        whole: its expected direction, from all continuations.
        halves: the same from each half of them; none for methods that use no continuations.
        others: columns of the table `alignment`, [N].
    """

    whole: WholeDirection
    halves: tuple[WholeDirection, ...]
    cosine: Floats
    reason: npt.NDArray[np.object_]
    dot: Floats
    dot_bound: Floats
    ideal_norm2: Floats
    method_norm2: Floats
    norm_on_support: Floats
    sampled_cosine: Floats
    sampled_variance_ratio: Floats


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


def score_nodes(nodes: NodeTable, view: NodeView, method: Method) -> NodeScores:
    """Compare one method with the ideal gradient at every node of a view.

    Both are directions on the whole vocabulary. The ideal one is known on the candidates C, where
    it is P(C) times that of the student conditioned on C; outside it is at most P_j and taken as
    0. A method pays for what it does outside all the same: its length is that of the whole
    direction.
    """
    at, mask_NC = view.rows, view.mask_NC
    prob_NC, value_NC, var_NC = nodes.prob_NC[at], nodes.value_NC[at], nodes.var_NC[at]
    mass_N = np.where(mask_NC, prob_NC, 0.0).sum(axis=1)
    direction = method.direction(view.batch)
    whole = WholeDirection.of(direction.ascent_NS, view)
    ideal_NC = ideal_gradient(prob_NC, value_NC, mask_NC)
    flat_N = cosine(ideal_NC, ideal_NC).reason_N == FLAT
    if method.ideal_multiple is not None:
        return _multiple(method, nodes, view, ideal_NC, flat_N)
    halves: tuple[WholeDirection, ...] = ()
    if method.uses_continuations:
        halves = tuple(WholeDirection.of(method.ascent(view.batch.half(h)), view) for h in (0, 1))
        sums, cosine_N = _cross_fitted(nodes, view, halves)
    else:
        sums = node_sums(prob_NC, value_NC, var_NC, whole.inside_NC, mask_NC)
        sums = replace(sums, method_norm2_N=whole.norm2_N)
        cosine_N = whole.cosine(ideal_NC)
    reason_N = _reasons(direction, whole, flat_N, cosine_N)
    return NodeScores(
        whole=whole,
        halves=halves,
        cosine=np.where(reason_N == "", cosine_N, np.nan),
        reason=reason_N,
        dot=mass_N * sums.dot_N,
        dot_bound=whole.dot_bound(prob_NC),
        ideal_norm2=mass_N**2 * sums.ideal_norm2_N,
        method_norm2=sums.method_norm2_N,
        norm_on_support=whole.share_inside_N,
        sampled_cosine=_sampled_cosine(method, view, ideal_NC, flat_N),
        sampled_variance_ratio=method.variance_ratio(view.batch),
    )


def _multiple(
    method: Method, nodes: NodeTable, view: NodeView, ideal_NC: Floats, flat_N: Bools
) -> NodeScores:
    """Score a method that is the ideal gradient times a factor.

    It is measured from the same rollouts. By this identity its noise leaves all three sums alike,
    where estimates of their own would each have another.
    """
    at, mask_NC, factor = view.rows, view.mask_NC, float(method.ideal_multiple or 0.0)
    prob_NC = nodes.prob_NC[at]
    mass_N = np.where(mask_NC, prob_NC, 0.0).sum(axis=1)
    norm2_N = mass_N**2 * unbiased_norm2(prob_NC, nodes.value_NC[at], nodes.var_NC[at], mask_NC)

    def direction(ideal_NC: Floats) -> WholeDirection:
        return WholeDirection.of_candidates(factor * mass_N[:, None] * ideal_NC, view)

    v_HNC, both_NC = _half_values(nodes, view)
    reason_N = np.where(flat_N, FLAT, "").astype(object)
    return NodeScores(
        whole=direction(ideal_NC),
        halves=tuple(direction(ideal_gradient(prob_NC, v_NC, both_NC)) for v_NC in v_HNC),
        cosine=np.where(flat_N, np.nan, 1.0),
        reason=reason_N,
        dot=factor * norm2_N,
        dot_bound=np.zeros(len(at)),
        ideal_norm2=norm2_N,
        method_norm2=factor**2 * norm2_N,
        norm_on_support=np.where(flat_N, np.nan, 1.0),
        sampled_cosine=_sampled_cosine(method, view, ideal_NC, flat_N),
        sampled_variance_ratio=method.variance_ratio(view.batch),
    )


def _half_values(nodes: NodeTable, view: NodeView) -> tuple[Floats, Bools]:
    """Return V from each half, 0 where it is not known, [2, N, C]; and where both are, [N, C]."""
    half_HNC = nodes.half_value_HNC[:, view.rows]
    both_NC = view.mask_NC & np.isfinite(half_HNC).all(axis=0)
    return np.where(both_NC, half_HNC, 0.0), both_NC


def _cross_fitted(
    nodes: NodeTable, view: NodeView, halves: tuple[WholeDirection, ...]
) -> tuple[NodeSums, Floats]:
    """Return sums and cosines of a method that is measured from continuations.

    All three sums are products of one pair of halves: the direction and the ideal gradient that
    one half gives never meet each other.
    """
    prob_NC = nodes.prob_NC[view.rows]
    v_HNC, both_NC = _half_values(nodes, view)
    m_HNC = np.where(both_NC, np.stack([half.inside_NC for half in halves]), 0.0)
    sums = cross_fit(prob_NC, v_HNC, m_HNC, both_NC)
    g_HNC = [ideal_gradient(prob_NC, v_NC, both_NC) for v_NC in v_HNC]
    ways = [halves[1].cosine(g_HNC[0]), halves[0].cosine(g_HNC[1])]
    sums = replace(sums, method_norm2_N=halves[0].product(halves[1]))
    return sums, 0.5 * (ways[0] + ways[1])


def _reasons(
    direction: Direction, whole: WholeDirection, flat_N: Bools, cosine_N: Floats
) -> npt.NDArray[np.object_]:
    """Say why a node has no cosine: flat comes first, then what the method says."""
    reason_N = direction.reason_N.copy()
    reason_N[(reason_N == "") & ~(whole.norm2_N > 0.0)] = "zero_method:no direction"
    reason_N[(reason_N == "") & np.isnan(cosine_N)] = "flat:one half of the continuations"
    reason_N[flat_N] = FLAT
    return reason_N


def _sampled_cosine(method: Method, view: NodeView, ideal_NC: Floats, flat_N: Bools) -> Floats:
    """Return the cosine of the direction for the drawn token alone."""
    whole = WholeDirection.of(method.ascent(view.batch, "sampled"), view)
    return np.where(flat_N, np.nan, whole.cosine(ideal_NC))


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
