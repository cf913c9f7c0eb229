"""Every method's direction against the ideal gradient, node by node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign import methods
from gradalign.alignment import cosine, cross_fit, node_sums
from gradalign.alignment.ideal import ideal_gradient, teacher_advantage, unbiased_norm2
from gradalign.alignment.scores import FLAT
from gradalign.analysis.node_views import Bools, Floats, NodeTable, NodeView, ShardViews
from gradalign.estimates import Arm
from gradalign.methods import Direction, Method, restrict
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
        return all(run.folder.has_table(name, shard) for name in TABLES)

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
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
                _add_alignment(tables["alignment"], nodes, view, label, method, scores)
        for name, rows in tables.items():
            run.folder.write_table(name, views.shard, rows.table_of())
        return Counter(alignments=len(arms) * len(nodes.row_of))


def arms_of(run: Run) -> list[Arm]:
    """Return the arm of every direction of a run, those without a teacher first."""
    chosen = [methods.get(spec) for spec in run.config.methods]
    labels = (NO_TEACHER, *(teacher.label for teacher in run.teachers))
    return [
        Arm(label, method.spec)
        for label in labels
        for method in chosen
        if ("teacher" in method.needs) == (label != NO_TEACHER)
    ]


@dataclass(frozen=True)
class NodeScores:
    """One method at every node of a view.

    Attributes:
        direction_NC: its expected direction on the candidates, from all continuations.
        others: columns of the table `alignment`, [N].
    """

    direction_NC: Floats
    cosine: Floats
    reason: npt.NDArray[np.object_]
    dot: Floats
    method_norm2: Floats
    norm_on_support: Floats
    full_norm2: Floats
    sampled_cosine: Floats
    sampled_variance_ratio: Floats


def _add_alignment(
    rows: Rows, nodes: NodeTable, view: NodeView, label: str, method: Method, scores: NodeScores
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
        ideal_norm2=_ideal_norm2(nodes, view),
        method_norm2=scores.method_norm2,
        norm_on_support=scores.norm_on_support,
        full_norm2=scores.full_norm2,
        teacher_advantage=(
            teacher_advantage(nodes.prob_NC[at], view.q_NC, nodes.value_NC[at], mask_NC)
            if label != NO_TEACHER
            else np.full(len(at), np.nan)
        ),
        sampled_cosine=scores.sampled_cosine,
        sampled_variance_ratio=scores.sampled_variance_ratio,
    )


def _ideal_norm2(nodes: NodeTable, view: NodeView) -> Floats:
    """Return |g*|^2 on the candidates of a view, which may lack some of the shard's."""
    at = view.rows
    fewer_N = (view.mask_NC != nodes.mask_NC[at]).any(axis=1)
    norm2_N = np.array(nodes.column("ideal_norm2")[at], dtype=np.float64)
    some = at[fewer_N]
    norm2_N[fewer_N] = unbiased_norm2(
        nodes.prob_NC[some], nodes.value_NC[some], nodes.var_NC[some], view.mask_NC[fewer_N]
    )
    return norm2_N


def score_nodes(nodes: NodeTable, view: NodeView, method: Method) -> NodeScores:
    """Compare one method with the ideal gradient at every node of a view."""
    at, batch = view.rows, view.batch
    prob_NC, value_NC = nodes.prob_NC[at], nodes.value_NC[at]
    mask_NC = view.mask_NC
    direction = method.direction(batch)
    m_NC = on_candidates(direction.ascent_NS, view, mask_NC)
    ideal_NC = ideal_gradient(prob_NC, value_NC, mask_NC)
    flat_N = cosine(ideal_NC, ideal_NC).reason_N == FLAT
    if method.uses_continuations:
        halves = [method.direction(batch.half(h)) for h in (0, 1)]
        m_HNC = np.stack([on_candidates(half.ascent_NS, view, mask_NC) for half in halves])
        v_HNC = nodes.half_value_HNC[:, at]
        both_NC = mask_NC & np.isfinite(v_HNC).all(axis=0)
        sums = cross_fit(prob_NC, np.where(both_NC, v_HNC, 0.0), m_HNC, both_NC)
        g_HNC = [ideal_gradient(prob_NC, np.where(both_NC, v, 0.0), both_NC) for v in v_HNC]
        ways = [cosine(g_HNC[0], m_HNC[1]).value_N, cosine(g_HNC[1], m_HNC[0]).value_N]
        cosine_N = 0.5 * (ways[0] + ways[1])
    else:
        sums = node_sums(prob_NC, value_NC, nodes.var_NC[at], m_NC, mask_NC)
        cosine_N = cosine(ideal_NC, m_NC).value_N
    reason_N = _reasons(direction, m_NC, flat_N, cosine_N)
    return NodeScores(
        direction_NC=m_NC,
        cosine=np.where(reason_N == "", cosine_N, np.nan),
        reason=reason_N,
        dot=sums.dot_N,
        method_norm2=sums.method_norm2_N,
        norm_on_support=_norm_on_support(direction, view, mask_NC),
        full_norm2=_full_norm2(direction, view),
        sampled_cosine=_sampled_cosine(method, view, mask_NC, ideal_NC, flat_N),
        sampled_variance_ratio=method.variance_ratio(batch),
    )


def on_candidates(ascent_NS: Floats, view: NodeView, mask_NC: Bools) -> Floats:
    """Restrict a direction to the candidates, [N, C]; rows without a direction become 0."""
    candidates_NS = np.zeros(ascent_NS.shape, dtype=np.bool_)
    row_N1 = np.arange(len(mask_NC))[:, None]
    candidates_NS[np.broadcast_to(row_N1, mask_NC.shape)[mask_NC], view.slot_NC[mask_NC]] = True
    restricted_NS = restrict(ascent_NS, view.batch.log_p_NS, candidates_NS)
    m_NC = np.where(mask_NC, np.take_along_axis(restricted_NS, view.slot_NC, axis=1), 0.0)
    return np.asarray(np.nan_to_num(m_NC, nan=0.0))


def _reasons(
    direction: Direction, m_NC: Floats, flat_N: Bools, cosine_N: Floats
) -> npt.NDArray[np.object_]:
    """Say why a node has no cosine: flat comes first, then what the method says."""
    reason_N = direction.reason_N.copy()
    silent_N = (reason_N == "") & ~(np.abs(m_NC).max(axis=1, initial=0.0) > 0.0)
    reason_N[silent_N] = "zero_method:nothing on the candidates"
    reason_N[(reason_N == "") & np.isnan(cosine_N)] = "flat:one half of the continuations"
    reason_N[flat_N] = FLAT
    return reason_N


def _norm_on_support(direction: Direction, view: NodeView, mask_NC: Bools) -> Floats:
    """Return the share of |m|^2 that lies on the candidates; the tail counts as spread evenly."""
    ascent_NS, total_N = direction.ascent_NS, _full_norm2(direction, view)
    inside_NC = np.where(mask_NC, np.take_along_axis(ascent_NS, view.slot_NC, axis=1), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((inside_NC**2).sum(axis=1) / total_N)


def _full_norm2(direction: Direction, view: NodeView) -> Floats:
    """Return |m|^2 over all tokens; the tail counts as spread evenly."""
    ascent_NS = direction.ascent_NS
    tail_N = -ascent_NS.sum(axis=1)
    return np.asarray((ascent_NS**2).sum(axis=1) + tail_N**2 / np.maximum(view.batch.num_tail_N, 1))


def _sampled_cosine(
    method: Method, view: NodeView, mask_NC: Bools, ideal_NC: Floats, flat_N: Bools
) -> Floats:
    """Return the cosine of the direction for the drawn token alone."""
    m_NC = on_candidates(method.ascent(view.batch, "sampled"), view, mask_NC)
    return np.where(flat_N, np.nan, cosine(ideal_NC, m_NC).value_N)


def _add_directions(
    rows: Rows, nodes: NodeTable, view: NodeView, label: str, method: Method, scores: NodeScores
) -> None:
    """Add a row per node; a candidate of which the teacher's server said nothing is null."""
    at = view.rows
    candidate_NC = nodes.token_NC[at] >= 0
    unknown_NC = nodes.mask_NC[at] & ~view.mask_NC
    flat = np.where(unknown_NC, np.nan, scores.direction_NC)[candidate_NC]
    offsets = np.concatenate([[0], np.cumsum(candidate_NC.sum(axis=1))]).astype(np.int32)
    question_ids, node_ids = nodes.ids("question_id"), nodes.ids("node_id")
    rows.add(
        len(at),
        question_id=[question_ids[n] for n in at],
        node_id=[node_ids[n] for n in at],
        teacher=label,
        method=method.spec,
        direction=pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(flat, type=pa.float64(), from_pandas=True)
        ),
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
