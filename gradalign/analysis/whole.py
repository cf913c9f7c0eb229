"""A method's direction on the whole vocabulary, next to the candidates whose values are known.

A direction is known on the support (the top tokens of student and teacher, and the candidates);
what is missing for a sum of 0 lies on the tail, spread evenly. Axes: _N nodes, _S support, _C
candidates, _X tokens of the support that are no candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradalign.alignment.scores import ZERO_NORM
from gradalign.analysis.node_views import Bools, Floats, Ints, NodeView
from gradalign.methods import restrict

NEGLIGIBLE = 1e-4
"""Part of |m|^2 that tokens outside the candidates may lose when they are stored."""


@dataclass(frozen=True, eq=False)
class WholeDirection:
    """A direction at the nodes of a view; nodes that have none have 0.

    Attributes:
        ascent_NS: on the support.
        view: the nodes.
    """

    ascent_NS: Floats
    view: NodeView

    @classmethod
    def of(cls, ascent_NS: Floats, view: NodeView) -> WholeDirection:
        """Take a method's direction, NaN where it has none."""
        return cls(np.nan_to_num(ascent_NS, nan=0.0, posinf=0.0, neginf=0.0), view)

    @classmethod
    def of_candidates(cls, inside_NC: Floats, view: NodeView) -> WholeDirection:
        """Take a direction that is nothing outside the candidates."""
        ascent_NS = np.zeros(view.batch.log_p_NS.shape)
        row_NC = np.broadcast_to(np.arange(len(inside_NC))[:, None], inside_NC.shape)
        mask_NC = view.mask_NC
        ascent_NS[row_NC[mask_NC], view.slot_NC[mask_NC]] = inside_NC[mask_NC]
        return cls(ascent_NS, view)

    @cached_property
    def inside_NC(self) -> Floats:
        """On the candidates, 0 at padding."""
        taken_NC = np.take_along_axis(self.ascent_NS, self.view.slot_NC, axis=1)
        return np.where(self.view.mask_NC, taken_NC, 0.0)

    @cached_property
    def tail_N(self) -> Floats:
        """Sum over the tokens outside the support."""
        return np.asarray(-self.ascent_NS.sum(axis=1))

    @cached_property
    def norm2_N(self) -> Floats:
        """Squared length over all tokens."""
        return self.product(self)

    def product(self, other: WholeDirection) -> Floats:
        """Inner product with another direction at the same nodes, over all tokens, [N]."""
        num_tail_N = np.maximum(self.view.batch.num_tail_N, 1)
        inside_N = np.vecdot(self.ascent_NS, other.ascent_NS)
        return np.asarray(inside_N + self.tail_N * other.tail_N / num_tail_N)

    def cosine(self, ideal_NC: Floats) -> Floats:
        """Cosine with an ideal gradient, which is 0 outside the candidates; NaN where either is."""
        lengths_N = np.linalg.norm(ideal_NC, axis=1) * np.sqrt(self.norm2_N)
        with np.errstate(invalid="ignore", divide="ignore"):
            value_N = (ideal_NC * self.inside_NC).sum(axis=1) / lengths_N
        return np.where(lengths_N > ZERO_NORM**2, np.clip(value_N, -1.0, 1.0), np.nan)

    @cached_property
    def share_inside_N(self) -> Floats:
        """Share of the squared length that lies on the candidates; NaN without a length."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((self.inside_NC**2).sum(axis=1) / self.norm2_N)

    def dot_bound(self, prob_NC: Floats) -> Floats:
        """How far the true ideal . m may lie from that of the candidates alone, [N].

        Values outside are somewhere in [0, 1]. So the mean value is known to 1 - P(C), which
        moves g by at most (1 - P(C)) P_j inside, and |g_j| is at most P_j outside.

        Args:
            prob_NC: the student's probabilities of the candidates.
        """
        p_NC = np.where(self.view.mask_NC, prob_NC, 0.0)
        left_N = np.maximum(1.0 - p_NC.sum(axis=1), 0.0)
        batch = self.view.batch
        p_NS = np.where(self._outside_NS, np.exp(batch.log_p_NS), 0.0)
        outside_N = (p_NS * np.abs(self.ascent_NS)).sum(axis=1)
        outside_N += np.exp(batch.log_tail_p_N) * np.abs(self.tail_N)
        return np.asarray(left_N * np.abs((p_NC * self.inside_NC).sum(axis=1)) + outside_N)

    def others(self) -> Ints:
        """Slots of the tokens outside the candidates that it moves, [N, X]; -1 at padding.

        The longest come first, and those whose squares together are below `NEGLIGIBLE` of the
        whole are left out.
        """
        outside_NS = np.where(self._outside_NS, self.ascent_NS, 0.0)
        order_NS = np.argsort(-np.abs(outside_NS), axis=1, kind="stable")
        sorted_NS = np.take_along_axis(outside_NS, order_NS, axis=1)
        left_NS = np.cumsum(sorted_NS[:, ::-1] ** 2, axis=1)[:, ::-1]
        keep_NS = left_NS > NEGLIGIBLE * np.maximum(self.norm2_N, 1e-300)[:, None]
        width = int(keep_NS.sum(axis=1).max(initial=0))
        return np.where(keep_NS[:, :width], order_NS[:, :width], -1)

    def at(self, slot_NX: Ints) -> Floats:
        """The direction at slots of the support, [N, X]; 0 where the slot is -1."""
        taken_NX = np.take_along_axis(self.ascent_NS, np.maximum(slot_NX, 0), axis=1)
        return np.where(slot_NX >= 0, taken_NX, 0.0)

    @cached_property
    def _outside_NS(self) -> Bools:
        return ~_slots_taken(self.view, self.view.mask_NC)


def on_candidates(ascent_NS: Floats, view: NodeView, mask_NC: Bools) -> Floats:
    """Restrict a direction to the policy conditioned on candidates, [N, C]; 0 where it has none.

    Args:
        ascent_NS: on the support of a view.
        view: the nodes.
        mask_NC: which candidates.
    """
    restricted_NS = restrict(ascent_NS, view.batch.log_p_NS, _slots_taken(view, mask_NC))
    m_NC = np.where(mask_NC, np.take_along_axis(restricted_NS, view.slot_NC, axis=1), 0.0)
    return np.asarray(np.nan_to_num(m_NC, nan=0.0))


def _slots_taken(view: NodeView, mask_NC: Bools) -> Bools:
    """Mark the support slots of candidates, [N, S]."""
    taken_NS = np.zeros(view.batch.log_p_NS.shape, dtype=np.bool_)
    row_NC = np.broadcast_to(np.arange(len(mask_NC))[:, None], mask_NC.shape)
    taken_NS[row_NC[mask_NC], view.slot_NC[mask_NC]] = True
    return taken_NS
