"""Directions of several teachers at the nodes that all of them were shown.

Teachers are stored on supports of their own: the student's top tokens and theirs. The joint support
is all of them; on a token that a teacher's support lacks, its direction is that of its tail, which
is spread evenly. So inner products between teachers are over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from gradalign.analysis.node_views import Floats, Ints, NodeTable, NodeView, slots
from gradalign.analysis.whole import WholeDirection
from gradalign.methods import NodeBatch


class JointView:
    """The nodes that every teacher of some was shown, on the joint support.

    Args:
        nodes: the shard's nodes.
        views: of each teacher.

    Attributes:
        view: the nodes; its batch has the student's distribution alone.
    """

    def __init__(self, nodes: NodeTable, views: Mapping[str, NodeView]) -> None:
        rows = reduce(np.intersect1d, (view.rows for view in views.values()))
        self._at = {
            label: np.flatnonzero(np.isin(view.rows, rows, assume_unique=True))
            for label, view in views.items()
        }
        own = {label: view.batch.ids_NS[self._at[label]] for label, view in views.items()}
        ids_NS = _union([*own.values()])
        self._slot_NS = {label: slots(found_NS, ids_NS) for label, found_NS in own.items()}
        log_p_NS = np.full(ids_NS.shape, -np.inf)
        for label, view in views.items():
            taken_NS = _taken(view.batch.log_p_NS[self._at[label]], self._slot_NS[label], -np.inf)
            log_p_NS = np.where(np.isneginf(log_p_NS), taken_NS, log_p_NS)
        first = next(iter(views))
        sizes_N = (own[first] >= 0).sum(axis=1) + views[first].batch.num_tail_N[self._at[first]]
        mask_NS = ids_NS >= 0
        with np.errstate(divide="ignore"):
            left_N = np.log(np.maximum(1.0 - np.exp(log_p_NS).sum(axis=1), 0.0))
        batch = NodeBatch(
            log_p_NS=log_p_NS,
            log_q_NS=log_p_NS,
            mask_NS=mask_NS,
            log_tail_p_N=left_N,
            log_tail_q_N=left_N,
            num_tail_N=np.maximum(sizes_N - mask_NS.sum(axis=1), 0),
            ids_NS=ids_NS,
            sampled_N=slots(ids_NS, nodes.column("sampled_token_id")[rows][:, None])[:, 0],
            top_limit=min(view.batch.top_limit for view in views.values()),
        )
        mask_NC = nodes.mask_NC[rows]
        for label, view in views.items():
            mask_NC = mask_NC & view.mask_NC[self._at[label]]
        found_NC = slots(ids_NS, nodes.token_NC[rows])
        q_NC = np.where(mask_NC, nodes.prob_NC[rows], 0.0)
        self.view = NodeView(batch, rows, np.where(mask_NC, found_NC, 0), q_NC, mask_NC)

    @property
    def labels(self) -> tuple[str, ...]:
        """The teachers, in order."""
        return tuple(self._at)

    def rows_of(self, label: str) -> Ints:
        """Return which rows of a teacher's own view these nodes are."""
        return self._at[label]

    def of(self, whole: WholeDirection, label: str) -> WholeDirection:
        """Return a teacher's direction on the joint support."""
        at = self._at[label]
        count_N = np.maximum(whole.view.batch.num_tail_N[at], 1)
        each_N = whole.tail_N[at] / count_N
        taken_NS = _taken(whole.ascent_NS[at], self._slot_NS[label], np.nan)
        ascent_NS = np.where(np.isnan(taken_NS), each_N[:, None], taken_NS)
        return WholeDirection(np.where(self.view.batch.mask_NS, ascent_NS, 0.0), self.view)


def _union(every: list[Ints]) -> Ints:
    """Return the token ids of all supports in rising order, -1 at padding, [N, S]."""
    far = np.iinfo(np.int64).max
    ids_NS = np.concatenate(every, axis=1)
    ids_NS = np.sort(np.where(ids_NS >= 0, ids_NS, far), axis=1)
    again_NS = np.zeros(ids_NS.shape, dtype=np.bool_)
    again_NS[:, 1:] = ids_NS[:, 1:] == ids_NS[:, :-1]
    ids_NS = np.sort(np.where(again_NS, far, ids_NS), axis=1)
    width = int((ids_NS < far).sum(axis=1).max(initial=0))
    return np.where(ids_NS < far, ids_NS, -1)[:, : max(width, 1)]


def _taken(value_NS: Floats, slot_NS: Ints, missing: float) -> Floats:
    if not value_NS.shape[1]:
        return np.full(slot_NS.shape, missing)
    taken_NS = np.take_along_axis(value_NS, np.maximum(slot_NS, 0), axis=1)
    return np.where(slot_NS >= 0, taken_NS, missing)
