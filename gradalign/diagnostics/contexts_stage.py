"""Several contexts of one model at every node: their consensus, and how far they contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from gradalign import methods
from gradalign.analysis.node_views import (
    Bools,
    Floats,
    ShardNodes,
    TeacherNodes,
    read_nodes,
    slots,
    with_teacher,
)
from gradalign.contexts import CONTEXTS, TeacherSpec
from gradalign.contexts import get as get_context
from gradalign.diagnostics.consensus import Consensus, consensus
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.diagnostics.nodes import against_ideal, ideal_columns, key_columns
from gradalign.stages.base import Run, Tick, Work
from gradalign.stages.distributions import tempering
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_contexts"


class DiagnoseContexts:
    """Aggregate the contexts of every model that has at least two."""

    name = "diagnose contexts"
    unit = "nodes"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there."""
        return run.folder.has_table(TABLE, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""
        yield lambda shard, tick: _shard(run, shard, tick)


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
    return name in CONTEXTS and get_context(teacher.context, None).shared


def _shard(run: Run, shard: str, tick: Tick) -> Counter[str]:
    rows = Rows(TABLE)
    wanted = groups(run.teachers)
    if wanted:
        nodes = read_nodes(run, shard)
        labels = sorted({label for group in wanted for label in group.labels})
        views = {label: with_teacher(run, shard, nodes, label, tempering(run)) for label in labels}
        for done, group in enumerate(wanted, start=1):
            _add(rows, nodes, group, [views[label] for label in group.labels])
            tick(done, len(wanted), len(nodes.row_of))
    run.folder.write_table(TABLE, shard, rows.table_of())
    return Counter(context_groups=len(wanted))


def _add(rows: Rows, nodes: ShardNodes, group: ContextGroup, views: Sequence[TeacherNodes]) -> None:
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


def on_common_support(views: Sequence[TeacherNodes]) -> tuple[TeacherNodes, Floats, Floats]:
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


def _rows_of(view: TeacherNodes, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> TeacherNodes:
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
    return TeacherNodes(kept, rows, view.slot_NC[at], view.q_NC[at], view.mask_NC[at])


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


def _as_teacher(view: TeacherNodes, found: Consensus) -> TeacherNodes:
    batch = replace(view.batch, log_q_NS=found.log_c_NS, log_tail_q_N=found.log_tail_c_N)
    return replace(view, batch=batch)
