"""Truncated losses at every node: what top-k does to the gradient of the reverse KL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gradalign import methods
from gradalign.analysis.node_views import TeacherNodes, read_nodes, with_teacher
from gradalign.diagnostics.nodes import against_ideal, ideal_columns, key_columns
from gradalign.diagnostics.topk import FORMS, SIZES, SUPPORT, distortion, spec
from gradalign.stages.base import Run, Tick, Work
from gradalign.stages.distributions import tempering
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_topk"
FULL = "full"


class DiagnoseTopK:
    """Compare biased, stop-gradient and renormalised top-k with the full reverse KL."""

    name = "diagnose topk"
    unit = "directions"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there."""
        return run.folder.has_table(TABLE, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""
        yield lambda shard, tick: _shard(run, shard, tick)


def cases(top_limit: int) -> list[tuple[int, str]]:
    """Return (k, form) of what is compared, the full direction first.

    Args:
        top_limit: how many of each model's top tokens were kept; larger k are left out.
    """
    return [(0, FULL), *((k, form) for k in SIZES if k <= top_limit for form in FORMS)]


def _shard(run: Run, shard: str, tick: Tick) -> Counter[str]:
    nodes = read_nodes(run, shard)
    rows = Rows(TABLE)
    for done, teacher in enumerate(run.teachers, start=1):
        view = with_teacher(run, shard, nodes, teacher.label, tempering(run))
        at, batch = view.rows, view.batch
        shared = {**key_columns(nodes, at), **ideal_columns(nodes, view)}
        full_NS = methods.get(spec("", 0)).ascent(batch)
        wanted = cases(batch.top_limit)
        for k, form in wanted:
            ascent_NS = full_NS if k == 0 else methods.get(spec(form, k)).ascent(batch)
            changed = distortion(ascent_NS, full_NS, batch.num_tail_N)
            scored = against_ideal(nodes, view, ascent_NS)
            size_N, mass_p_N, mass_q_N = _set(view, k)
            rows.add(
                len(at),
                **shared,
                teacher=teacher.label,
                k=k,
                form=form,
                set_size=size_N,
                set_mass_student=mass_p_N,
                set_mass_teacher=mass_q_N,
                cosine_to_full=changed.cosine_N,
                norm_ratio=changed.norm_ratio_N,
                distance=changed.distance_N,
                full_norm2=changed.full_norm2_N,
                cosine=scored.cosine,
                dot=scored.dot,
                method_norm2=scored.method_norm2,
            )
        tick(done * len(wanted), len(run.teachers) * len(wanted), len(at) * len(wanted))
    run.folder.write_table(TABLE, shard, rows.table_of())
    return Counter(compared_nodes=len(nodes.row_of) * len(run.teachers))


def _set(view: TeacherNodes, k: int) -> tuple[object, object, object]:
    """Return size and masses of the set, the whole vocabulary for k = 0."""
    dist = view.batch.at(1.0)
    if k == 0:
        ones_N = np.ones(len(view.rows))
        return view.batch.mask_NS.sum(axis=1) + view.batch.num_tail_N, ones_N, ones_N
    inside_NS = dist.top_set(SUPPORT, k)
    return (
        inside_NS.sum(axis=1),
        np.where(inside_NS, dist.p_NS, 0.0).sum(axis=1),
        np.where(inside_NS, dist.q_NS, 0.0).sum(axis=1),
    )
