"""What a student can learn of a teacher that is shown several contexts.

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). The student does not see
the context I, so the mean over contexts of KL(P||Q_I) is least at the consensus C, proportional
to exp(mean log Q_I). With Z its normaliser,

    mean KL(P||Q_I) = KL(P||C) + mean KL(C||Q_I),    mean KL(C||Q_I) = -log Z,

for every P: the first part can be learned (it is all there is if the contexts state one rule),
the second is conflict between the contexts, which no policy without them can follow. Axes:
_I contexts, _N nodes, _S support; the rest of the vocabulary is one bucket, which makes every
divergence a lower bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.alignment import mean_of_sums
from gradalign.analysis.node_views import Bools, Floats, NodeTable, NodeView, ShardViews, slots
from gradalign.contexts import CONTEXTS, TeacherSpec
from gradalign.contexts import get as get_context
from gradalign.diagnostics.base import (
    Advice,
    Consequence,
    Diagnostic,
    Figures,
    against_ideal,
    counted_rows,
    ideal_columns,
    key_columns,
)
from gradalign.diagnostics.collector import Collector, FigureKey, questions_of
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.estimates import Estimate
from gradalign.stages.base import Run
from gradalign.store.splits import QUESTION, outcome_splits
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_contexts"


@dataclass(frozen=True, eq=False)
class Consensus:
    """The geometric mean of several contexts' distributions.

    Attributes:
        log_c_NS: log C on the support, -inf at padding, [N, S]; all -inf where the contexts
            have no token in common.
        log_tail_c_N: log of the mass of C outside, [N].
        conflict_N: mean over contexts of KL(C||Q_I) = -log Z, nats, [N]; infinite where the
            contexts have no token in common.
        divergence_N: mean over contexts of KL(Q_I||C), nats, [N].
    """

    log_c_NS: Floats
    log_tail_c_N: Floats
    conflict_N: Floats
    divergence_N: Floats


def consensus(log_q_INS: npt.ArrayLike, log_tail_q_IN: npt.ArrayLike) -> Consensus:
    """Aggregate the distributions of several contexts at every node.

    Args:
        log_q_INS: log Q_I on a support that all contexts share, -inf at padding, [I, N, S].
        log_tail_q_IN: log of the mass of Q_I outside, -inf if there is none, [I, N].

    Raises:
        ValueError: the shapes do not fit, or there is no context.
    """
    inside_INS = np.asarray(log_q_INS, dtype=np.float64)
    tail_IN = np.asarray(log_tail_q_IN, dtype=np.float64)
    if inside_INS.ndim != 3 or tail_IN.shape != inside_INS.shape[:2] or not len(tail_IN):
        raise ValueError(
            "log_q must be [contexts, nodes, support] and log_tail_q [contexts, nodes], got "
            f"{inside_INS.shape} and {tail_IN.shape}"
        )
    mean_NX = np.concatenate([inside_INS, tail_IN[:, :, None]], axis=2).mean(axis=0)
    largest_N = mean_NX.max(axis=1)
    base_N = np.where(np.isfinite(largest_N), largest_N, 0.0)
    with np.errstate(divide="ignore"):
        log_z_N = base_N + np.log(np.exp(mean_NX - base_N[:, None]).sum(axis=1))
    there_N = np.isfinite(log_z_N)
    log_c_NX = np.where(
        there_N[:, None], mean_NX - np.where(there_N, log_z_N, 0.0)[:, None], -np.inf
    )
    log_c_NS, log_tail_c_N = log_c_NX[:, :-1], log_c_NX[:, -1]
    away_IN = [
        kl_divergence(q_NS, tail_N, log_c_NS, log_tail_c_N)
        for q_NS, tail_N in zip(inside_INS, tail_IN, strict=True)
    ]
    # Rounding can leave -1e-16 where all contexts are equal.
    return Consensus(
        log_c_NS=log_c_NS,
        log_tail_c_N=log_tail_c_N,
        conflict_N=np.maximum(-log_z_N, 0.0),
        divergence_N=np.maximum(np.mean(away_IN, axis=0), 0.0),
    )


@dataclass(frozen=True)
class ContextsTable:
    """The contexts of every model that has at least two, aggregated."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there."""
        return run.folder.has_table(TABLE, shard)

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, rows = views.run, Rows(TABLE)
        wanted = groups(run.read_teachers)
        if wanted:
            for group in wanted:
                _add(rows, views.nodes, group, [views.teacher(label) for label in group.labels])
        run.folder.write_table(TABLE, views.shard, rows.table_of())
        return Counter(context_groups=len(wanted))


@dataclass(frozen=True)
class ContextGroup:
    """Teachers that differ in what they are shown only.

    Attributes:
        model: the model, as in the teachers' specs.
        kind: "all", "shared" (one rule for every question) or "instance".
        labels: the teachers.
    """

    model: str
    kind: str
    labels: tuple[str, ...]


def groups(teachers: Sequence[TeacherSpec]) -> list[ContextGroup]:
    """Return the sets of contexts to aggregate: per model, of all and of each kind, two or more.

    Where all are of one kind, that kind is not listed again.
    The bare model is not among them: it is shown nothing.
    """
    by_model: dict[str, list[TeacherSpec]] = {}
    for teacher in teachers:
        if teacher.context != "none":
            by_model.setdefault(teacher.model, []).append(teacher)
    found = []
    for model, informed in by_model.items():
        kinds = {"all": informed, "shared": [], "instance": []}
        for teacher in informed:
            kinds["shared" if _is_shared(teacher) else "instance"].append(teacher)
        found += [
            ContextGroup(model, kind, tuple(item.label for item in items))
            for kind, items in kinds.items()
            if len(items) > 1 and (kind == "all" or len(items) < len(informed))
        ]
    return found


def _is_shared(teacher: TeacherSpec) -> bool:
    """Whether the context is the same for every question; one that the rows give is not."""
    name = teacher.context.partition(":")[0]
    if name == "demos":  # cannot be made without questions, and is shared whatever they are
        return True
    return name in CONTEXTS and get_context(teacher.context, ()).shared


def _add(rows: Rows, nodes: NodeTable, group: ContextGroup, views: Sequence[NodeView]) -> None:
    view, log_q_INS, log_tail_q_IN = on_common_support(views)
    found = consensus(log_q_INS, log_tail_q_IN)
    p = (view.batch.log_p_NS, view.batch.log_tail_p_N)
    mean_kl_N = np.mean(
        [
            kl_divergence(*p, q_NS, tail_N)
            for q_NS, tail_N in zip(log_q_INS, log_tail_q_IN, strict=True)
        ],
        axis=0,
    )
    view = _as_teacher(view, found)
    scored = against_ideal(nodes, view, methods.get("opd").ascent(view.batch))
    rows.add(
        len(view.rows),
        **key_columns(nodes, view.rows),
        **ideal_columns(nodes, view),
        teacher=group.model,
        kind=group.kind,
        num_contexts=len(views),
        divergence=found.divergence_N,
        conflict=found.conflict_N,
        shared_kl=kl_divergence(*p, found.log_c_NS, found.log_tail_c_N),
        mean_kl=mean_kl_N,
        cosine=scored.cosine,
        dot=scored.dot,
        method_norm2=scored.method_norm2,
    )


def on_common_support(views: Sequence[NodeView]) -> tuple[NodeView, Floats, Floats]:
    """Bring several contexts' views to the nodes and the tokens that all of them have.

    Every support holds the student's top tokens and the drawn one, and with them the candidates,
    unless a teacher's server kept them back; tokens that only some contexts know go to the tail.

    Returns:
        The first view so reduced, log Q_I on its slots [I, N, S], and their tails [I, N].
    """
    common = sorted(set.intersection(*(set(view.rows.tolist()) for view in views)))
    reduced = [_rows_of(view, np.array(common, dtype=np.int64)) for view in views]
    base = reduced[0]
    slots_INS = [slots(view.batch.ids_NS, base.batch.ids_NS) for view in reduced]
    keep_NS = base.batch.mask_NS & np.all([slot_NS >= 0 for slot_NS in slots_INS], axis=0)
    log_q_INS, log_tail_IN = [], []
    for view, slot_NS in zip(reduced, slots_INS, strict=True):
        batch, safe_NS = view.batch, np.maximum(slot_NS, 0)
        log_q_INS.append(
            np.where(keep_NS, np.take_along_axis(batch.log_q_NS, safe_NS, axis=1), -np.inf)
        )
        log_tail_IN.append(_with_dropped(batch.log_q_NS, batch.log_tail_q_N, safe_NS, keep_NS))
    own_NS = np.broadcast_to(np.arange(keep_NS.shape[1]), keep_NS.shape)
    batch = replace(
        base.batch,
        log_p_NS=np.where(keep_NS, base.batch.log_p_NS, -np.inf),
        log_q_NS=log_q_INS[0],
        mask_NS=keep_NS,
        log_tail_p_N=_with_dropped(base.batch.log_p_NS, base.batch.log_tail_p_N, own_NS, keep_NS),
        log_tail_q_N=log_tail_IN[0],
        num_tail_N=base.batch.num_tail_N + (base.batch.mask_NS & ~keep_NS).sum(axis=1),
        tail_powers={},
    )
    known_NC = base.mask_NC & np.take_along_axis(keep_NS, base.slot_NC, axis=1)
    view = replace(base, batch=batch, slot_NC=np.where(known_NC, base.slot_NC, 0), mask_NC=known_NC)
    return view, np.stack(log_q_INS), np.stack(log_tail_IN)


def _rows_of(view: NodeView, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> NodeView:
    """Keep some nodes of a view; what points from outside into its rows is left behind."""
    place = {row: i for i, row in enumerate(view.rows.tolist())}
    at = np.array([place[row] for row in rows.tolist()], dtype=np.int64)
    batch = view.batch
    arrays = {
        name: getattr(batch, name)[at]
        for name in (
            "log_p_NS",
            "log_q_NS",
            "mask_NS",
            "log_tail_p_N",
            "log_tail_q_N",
            "num_tail_N",
            "ids_NS",
            "sampled_N",
        )
    }
    kept = replace(batch, **arrays, tail_powers={}, continuations=None, spines=None)
    return NodeView(kept, rows, view.slot_NC[at], view.q_NC[at], view.mask_NC[at])


def _with_dropped(
    log_NS: Floats,
    log_tail_N: Floats,
    slot_NS: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    keep_NS: Bools,
) -> Floats:
    """Add to a tail the mass of the slots that are not kept, without cancellation."""
    rest_NS = np.exp(log_NS)
    row_NS = np.broadcast_to(np.arange(len(rest_NS))[:, None], keep_NS.shape)
    rest_NS[row_NS[keep_NS], slot_NS[keep_NS]] = 0.0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(log_tail_N) + rest_NS.sum(axis=1)))


def _as_teacher(view: NodeView, found: Consensus) -> NodeView:
    batch = replace(view.batch, log_q_NS=found.log_c_NS, log_tail_q_N=found.log_tail_c_N)
    return replace(view, batch=batch)


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add consensus, conflict and the share of a common rule, overall and per question."""
    if not run.folder.has_table(TABLE, shard):
        return
    frame = counted_rows(run, shard, TABLE)
    for (teacher, kind), part in frame.groupby(["teacher", "kind"], sort=False, observed=True):
        question, splits = questions_of(part), outcome_splits(part["correct"])
        each = {QUESTION + name: question == name for name in np.unique(question.astype(str))}
        weight = part["weight"].to_numpy(dtype=np.float64)

        def key(diagnostic: str, model: str = str(teacher), of: str = str(kind)) -> FigureKey:
            return FigureKey("contexts", model, diagnostic, f"{of} contexts")

        for name in ("conflict", "divergence", "shared_kl"):
            value = part[name].to_numpy(dtype=np.float64)
            into.mean(key(name), question, value, {**splits, **each}, weight)
        parts = part[["shared_kl", "mean_kl"]].to_numpy(dtype=np.float64) * weight[:, None]
        into.add(key("shared_share"), mean_of_sums, question, parts, {**splits, **each})
        into.pooled(key("alignment"), part, {**splits, **each})


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say it of the share of the teachers' pull that is common to the contexts."""
    conflict = figures.variants("contexts", teacher, "conflict")
    return {
        FigureKey("contexts", teacher, "shared_share", variant): contexts_advice(
            share, conflict[variant], variant.removesuffix(" contexts")
        )
        for variant, share in figures.variants("contexts", teacher, "shared_share").items()
    }


def contexts_advice(share: Estimate, conflict: Estimate, kind: str) -> Advice:
    """Say whether a student can follow these contexts.

    Args:
        share: part of the teachers' pull that is common to the contexts.
        conflict: mean KL of the consensus to the contexts, nats.
        kind: which contexts.
    """
    if share.high < 0.5:
        return Advice(
            f"These contexts ({kind}) contradict each other: only {share.value:.0%} of their pull "
            f"is common, {conflict.value:.2g} nats per token can be followed by no student that "
            "does not see them. Keep one kind, or state the rule that they share.",
            Consequence.CHANGE_TEACHER,
        )
    if share.low > 0.5:
        return Advice(
            f"These contexts ({kind}) agree: {share.value:.0%} of their pull is common and can be "
            "learned without seeing them.",
            Consequence.NOTHING,
        )
    return Advice(
        f"{share.value:.0%} of the pull of these contexts ({kind}) is common, with an interval "
        "around one half: score more questions.",
        Consequence.MORE_DATA,
    )


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (ContextsTable(),))
