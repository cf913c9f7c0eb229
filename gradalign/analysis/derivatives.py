"""What a direction at a node does for other questions, from the stored derivatives of its logits.

Axes: _N nodes of a shard, _M nodes of a view, _K kept tokens, _X tokens that a direction moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradalign.analysis.node_views import Floats, Ints, NodeTable, slots
from gradalign.analysis.whole import WholeDirection
from gradalign.store.folder import RunFolder
from gradalign.store.shard import padded


@dataclass(frozen=True, eq=False)
class AlongIdeal:
    """A method's directions against the derivatives.

    Attributes:
        dot_N: a . m over the tokens that the direction is stored on: what the passes of
            `gradalign.analysis.gradients` push. A token whose derivative is not kept counts with
            the mean derivative of those, by P.
        outside_N: share of |m|^2, over all tokens, on tokens whose derivative is not kept; NaN
            where there is no direction.
    """

    dot_N: Floats
    outside_N: Floats


@dataclass(frozen=True, eq=False)
class NodeDerivatives:
    """Derivatives of a shard's nodes along the ideal updates of other questions.

    Attributes:
        token_NK: the tokens they are kept on, rising, -1 at padding.
        slope_NK: of each one's logit.
        rest_N: mean over all other tokens, by P.
    """

    token_NK: Ints
    slope_NK: Floats
    rest_N: Floats

    def along(self, whole: WholeDirection) -> AlongIdeal:
        """Return a . m at the nodes of a view."""
        view, others_MX = whole.view, whole.others()
        rows = view.rows
        ids_MX = np.take_along_axis(view.batch.ids_NS, np.maximum(others_MX, 0), axis=1)
        inside_ids_MC = np.take_along_axis(view.batch.ids_NS, view.slot_NC, axis=1)
        token_MX = np.concatenate(
            [np.where(view.mask_NC, inside_ids_MC, -1), np.where(others_MX >= 0, ids_MX, -1)],
            axis=1,
        )
        m_MX = np.concatenate([whole.inside_NC, whole.at(others_MX)], axis=1)
        slot_MX = slots(self.token_NK[rows], token_MX)
        kept_MX = slot_MX >= 0
        slope_MX = np.take_along_axis(self.slope_NK[rows], np.maximum(slot_MX, 0), axis=1)
        a_MX = np.where(kept_MX, slope_MX, self.rest_N[rows, None])
        inside_N = np.where(kept_MX, m_MX**2, 0.0).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            outside_N = np.clip(1.0 - inside_N / whole.norm2_N, 0.0, 1.0)
        return AlongIdeal((a_MX * m_MX).sum(axis=1), outside_N)


def read_derivatives(folder: RunFolder, shard: str, nodes: NodeTable) -> NodeDerivatives:
    """Read a shard's derivatives in the order of its nodes."""
    table = folder.read_table("derivatives", shard)
    order = np.empty(len(nodes.row_of), dtype=np.int64)
    for place, node in enumerate(table["node_id"].to_pylist()):
        order[nodes.row_of[str(node)]] = place
    table = table.take(order)
    token_NK, _ = padded(table["token_ids"], -1)
    slope_NK = np.full(token_NK.shape, np.nan)
    found_NK, _ = padded(table["derivative"], np.nan)
    slope_NK[:, : found_NK.shape[1]] = found_NK
    return NodeDerivatives(token_NK.astype(np.int64), slope_NK, table["rest"].to_numpy())
