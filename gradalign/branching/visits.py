"""Where continuations lead: the later nodes that each passes, and the candidate it takes there.

Axes: _K continuations, _M passes, _N tree nodes, _S spines, _C candidates, _T tokens of all
continuations one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

# Bounds of the work arrays: continuations, and columns of tokens compared, at once.
_AT_ONCE = 4096
_FIRST_WIDTH, _LAST_WIDTH = 8, 256


@dataclass(frozen=True, eq=False)
class Stored:
    """One continuation.

    Attributes:
        node: tree node where it was forced.
        slot: the candidate that was forced.
        token_ids: the tokens after the forced one, int32.
        reward: in [0, 1].
        half: 0 or 1, for cross-fitting.
        truncated: it ended at the length limit.
    """

    node: int
    slot: int
    token_ids: Ids
    reward: float
    half: int
    truncated: bool


@dataclass(frozen=True, eq=False)
class Passes:
    """Which continuation counts for which candidate of which tree node, in flat arrays [M].

    They are ordered by continuation and then by depth.

    Attributes:
        continuation: index into `PrefixTree.continuations`.
        node, slot: where it counts.
        offset: how many of the continuation's tokens lie before the first one AFTER the slot's
            token; 0 at the node where it was forced.
        leaf: whether no linked node below takes its reward over, because it reaches none or
            takes none of the candidates of the next one.
    """

    continuation: Ints
    node: Ints
    slot: Ints
    offset: Ints
    leaf: npt.NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Passes]) -> Passes:
        """Join several in order."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


class Router:
    """Follows continuations through the nodes of one question.

    Args:
        spines: token ids of every spine's response.
        common_SS: length of the common prefix of each two spines.
        depth_N, spine_N: of each node.
        linked_N: whether values are backed up through it.
        candidates: the token ids of each node's candidates, in the order of their slots.
        reuse: whether a continuation counts at later nodes at all.
    """

    def __init__(
        self,
        spines: Sequence[Ids],
        common_SS: Ints,
        depth_N: Ints,
        spine_N: Ints,
        linked_N: npt.NDArray[np.bool_],
        candidates: Sequence[Sequence[int]],
        *,
        reuse: bool,
    ) -> None:
        self._spines = spines
        self._depth_N = depth_N
        self._linked_N = linked_N
        self._reuse = reuse
        self._token_NC = np.full((len(depth_N), max(map(len, candidates), default=1)), -1)
        for node, ids in enumerate(candidates):
            self._token_NC[node, : len(ids)] = ids
        self._on_NS = common_SS[spine_N] >= depth_N[:, None]
        by_depth = np.argsort(depth_N, kind="stable")
        self.on_spine = [by_depth[self._on_NS[by_depth, s]] for s in range(len(spines))]
        """The nodes whose prefix each spine begins with, the first ones first."""

    def follow(self, continuations: Sequence[Stored], first: int) -> Passes:
        """Return the passes of some continuations, whose numbers count from `first`."""
        blocks = range(0, max(1, len(continuations)), _AT_ONCE)
        return Passes.joined(
            [self._follow(continuations[i : i + _AT_ONCE], first + i) for i in blocks]
        )

    def _follow(self, some: Sequence[Stored], first: int) -> Passes:
        node_K = np.array([stored.node for stored in some], dtype=np.int64)
        slot_K = np.array([stored.slot for stored in some], dtype=np.int64)
        length_K = np.array([len(stored.token_ids) for stored in some], dtype=np.int64)
        begin_K = np.cumsum(length_K) - length_K
        flat_T = np.concatenate([np.zeros(0, np.int32), *(stored.token_ids for stored in some)])
        depth_K = self._depth_N[node_K]
        parts = [(np.arange(len(some)), node_K)]
        if self._reuse:
            token_K = self._token_NC[node_K, slot_K]
            best_K, reach_K = self._closest(flat_T, begin_K, length_K, node_K, token_K)
            # A continuation that ends at a node takes no candidate there.
            last_K = np.minimum(reach_K, depth_K + length_K)
            parts += [
                self._between(spine, np.flatnonzero(best_K == spine), depth_K, last_K)
                for spine in range(len(self._spines))
            ]
        which_M, node_M = (np.concatenate(column) for column in zip(*parts, strict=True))
        order_M = np.lexsort((self._depth_N[node_M], which_M))
        which_M, node_M = which_M[order_M], node_M[order_M]
        offset_M = self._depth_N[node_M] - depth_K[which_M]
        slot_M = slot_K[which_M]
        later_M = np.flatnonzero(offset_M > 0)
        taken_M = flat_T[begin_K[which_M[later_M]] + offset_M[later_M] - 1]
        same_MC = self._token_NC[node_M[later_M]] == taken_M[:, None]
        slot_M[later_M] = np.where(same_MC.any(axis=1), same_MC.argmax(axis=1), -1)
        leaf_M = self._leaves(which_M, node_M, slot_M)
        keep_M = slot_M >= 0
        columns = (which_M + first, node_M, slot_M, offset_M, leaf_M)
        return Passes(*(column[keep_M] for column in columns))

    def _closest(
        self, flat_T: Ids, begin_K: Ints, length_K: Ints, node_K: Ints, token_K: Ints
    ) -> tuple[Ints, Ints]:
        """Return the spine that each continuation stays on longest, and up to which depth."""
        depth_K = self._depth_N[node_K]
        best_K, reach_K = np.full(len(node_K), -1), np.full(len(node_K), -1)
        for spine, ids in enumerate(self._spines):
            on_k = np.flatnonzero(self._on_NS[node_K, spine] & (depth_K < len(ids)))
            on_k = on_k[ids[depth_K[on_k]] == token_K[on_k]]
            after_k = depth_K[on_k] + 1
            reach_k = after_k + _shared(flat_T, begin_K[on_k], length_K[on_k], ids, after_k)
            better_k = reach_k > reach_K[on_k]
            best_K[on_k[better_k]] = spine
            reach_K[on_k[better_k]] = reach_k[better_k]
        return best_K, reach_K

    def _between(self, spine: int, which_k: Ints, above_K: Ints, last_K: Ints) -> tuple[Ints, Ints]:
        """Return (continuation, node) for a spine's nodes below `above` down to `last`."""
        nodes = self.on_spine[spine]
        depths = self._depth_N[nodes]
        low_k = np.searchsorted(depths, above_K[which_k], side="right")
        high_k = np.searchsorted(depths, last_K[which_k], side="right")
        count_k = np.maximum(high_k - low_k, 0)
        begin_k = np.cumsum(count_k) - count_k
        place_M = np.arange(count_k.sum()) + np.repeat(low_k - begin_k, count_k)
        return np.repeat(which_k, count_k), nodes[place_M]

    def _leaves(self, which_M: Ints, node_M: Ints, slot_M: Ints) -> npt.NDArray[np.bool_]:
        leaf_M = np.ones(len(which_M), dtype=np.bool_)
        linked = np.flatnonzero(self._linked_N[node_M])
        here, below = linked[:-1], linked[1:]
        leaf_M[here] = (which_M[here] != which_M[below]) | (slot_M[below] < 0)
        return leaf_M


def _shared(flat_T: Ids, begin_k: Ints, length_k: Ints, ids: Ids, start_k: Ints) -> Ints:
    """Return how many tokens of each continuation are those of a spine from `start` on."""
    limit_k = np.minimum(length_k, len(ids) - start_k)
    shared_k = np.zeros(len(begin_k), dtype=np.int64)
    going = np.flatnonzero(limit_k > 0)
    width = _FIRST_WIDTH  # most part within a few tokens
    while len(going):
        at = shared_k[going, None] + np.arange(width)
        inside = at < limit_k[going, None]
        mine = flat_T[np.where(inside, begin_k[going, None] + at, 0)]
        theirs = ids[np.where(inside, start_k[going, None] + at, 0)]
        same = inside & (mine == theirs)
        all_same = same.all(axis=1)
        shared_k[going] += np.where(all_same, width, same.argmin(axis=1))
        going = going[all_same]
        width = min(2 * width, _LAST_WIDTH)
    return shared_k
