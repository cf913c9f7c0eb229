"""The prefix tree of one question: where its continuations pass, and what may be counted where.

A continuation forced at one node is an on-policy sample at every later node that it passes: if it
starts with that node's prefix followed by candidate k, its reward is a draw of V_k there. Whether
it passes is decided by its tokens up to k and never by its outcome, so, given the passes, rewards
at a node are independent draws with mean V_k. That makes reuse unbiased, and makes two candidates
of one node uncorrelated (no continuation takes two candidates of one node).

The rewards of the spines are counted nowhere. At a spine's own nodes they must not be: results
are split by that spine's reward, and counting it would select by outcome. At another
spine's node they would be unbiased on their own, but single-sample Dr. GRPO scores a spine against
the mean reward of its group, and would then share noise with the ideal gradient.

Nodes with equal prefixes, on whichever spine, are one tree node. Prefixes are compared token by
token (longest common prefixes with the spines), so no two can be confused.

Axes: _R rounds, _C candidates of a node; halves are 0 and 1.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradalign.branching.visits import Passes, Router, Stored

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(eq=False)
class TreeNode:
    """One prefix at which candidates are forced.

    Attributes:
        spine: a spine that the prefix lies on.
        depth: number of response tokens before the node.
        token_ids: the candidates' ids, in the order of their slots.
        prob: the student's probability of each.
        linked: whether values are backed up through it; if not, it only counts what passes.
        parent, parent_slot: the deepest node above, and the slot that leads here; -1 if there
            is no node above, or if what leads here is none of its candidates.
        children: per slot, the nodes that are the first below that candidate.
        slot_of: the slot of each candidate's id.

    Parent and children are found among linked nodes.
    """

    spine: int
    depth: int
    token_ids: list[int]
    prob: list[float]
    linked: bool = True
    parent: int = -1
    parent_slot: int = -1
    children: dict[int, list[int]] = field(default_factory=dict)
    slot_of: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class Counts:
    """Sums over the continuations that count at one node, each [R, half, C].

    `n`, `forced` count continuations; `total`, `square` sum rewards and their squares. The
    `leak_` sums take only those that reach no node below, or take none of its candidates.
    """

    n: Floats
    forced: Floats
    total: Floats
    square: Floats
    leak_n: Floats
    leak_total: Floats
    leak_square: Floats
    truncated: Floats


class PrefixTree:
    """All spines, nodes and continuations of one question.

    Args:
        spines: token ids of each spine's response.
        reuse: whether a continuation counts at the later nodes that it passes.
    """

    def __init__(self, spines: Sequence[npt.ArrayLike], *, reuse: bool = True) -> None:
        self.spines: list[Ids] = [np.asarray(ids, dtype=np.int32) for ids in spines]
        self.reuse = reuse
        self.nodes: list[TreeNode] = []
        self.continuations: list[Stored] = []
        self._rounds = array("i")  # of each continuation
        self._router: Router | None = None
        self._followed: list[Passes] = []
        self._num_followed = 0
        self._counts: list[Counts] | None = None
        count = len(self.spines)
        self._common = np.zeros((count, count), dtype=np.int64)
        for first in range(count):
            for second in range(count):
                self._common[first, second] = common_prefix(self.spines[first], self.spines[second])

    def add_node(
        self, spine: int, position: int, token_ids: npt.ArrayLike, prob: npt.ArrayLike
    ) -> tuple[int, Ints]:
        """Add the node at a spine's position; one that is there already gets the new candidates.

        Returns:
            The tree node's index, and the slot of each of `token_ids`, [C].

        Raises:
            ValueError: continuations are there already, or the arguments do not fit.
        """
        if self.continuations:
            raise ValueError("nodes must be added before the first continuation")
        ids = np.asarray(token_ids, dtype=np.int64)
        probs = np.asarray(prob, dtype=np.float64)
        if ids.ndim != 1 or ids.shape != probs.shape or len(set(ids.tolist())) != len(ids):
            raise ValueError(
                f"token_ids and prob must be [C] without repeats, got {ids.shape}, {probs.shape}"
            )
        if not 0 <= position < len(self.spines[spine]):
            raise ValueError(
                f"position {position} is not on spine {spine} of {len(self.spines[spine])} tokens"
            )
        self._router = None
        same = [
            index
            for index, node in enumerate(self.nodes)
            if node.depth == position and self._common[spine, node.spine] >= position
        ]
        if not same:
            self.nodes.append(TreeNode(spine, position, [], []))
        index = same[0] if same else len(self.nodes) - 1
        node = self.nodes[index]
        for token, probability in zip(ids.tolist(), probs.tolist(), strict=True):
            if token not in node.slot_of:
                node.slot_of[token] = len(node.token_ids)
                node.token_ids.append(token)
                node.prob.append(probability)
        return index, np.asarray([node.slot_of[token] for token in ids.tolist()], dtype=np.int64)

    def link(self) -> None:
        """Find each node's parent and children."""
        if self._router is not None:
            return
        nodes = self.nodes
        self._router = Router(
            self.spines,
            self._common,
            np.array([node.depth for node in nodes], dtype=np.int64),
            np.array([node.spine for node in nodes], dtype=np.int64),
            np.array([node.linked for node in nodes], dtype=np.bool_),
            [node.token_ids for node in nodes],
            reuse=self.reuse,
        )
        for node in nodes:
            node.parent, node.parent_slot, node.children = -1, -1, {}
        for index, node in enumerate(nodes):
            above = [
                i
                for i in self._router.on_spine[node.spine].tolist()
                if nodes[i].depth < node.depth and nodes[i].linked
            ]
            if not above or not node.linked:
                continue
            parent = nodes[above[-1]]
            taken = int(self.spines[node.spine][parent.depth])
            node.parent, node.parent_slot = above[-1], parent.slot_of.get(taken, -1)
            if node.parent_slot >= 0:
                parent.children.setdefault(node.parent_slot, []).append(index)

    def add(
        self,
        node: int,
        slot: int,
        token_ids: npt.ArrayLike,
        reward: float,
        *,
        half: int,
        round_index: int = 0,
        truncated: bool = False,
    ) -> None:
        """Count one continuation at its own node and at every later node that it passes.

        An int32 array of `token_ids` is kept, not copied.

        Raises:
            ValueError: a reward outside [0, 1].
        """
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"a reward must be in [0, 1], got {reward}")
        ids = np.asarray(token_ids, dtype=np.int32)
        self.continuations.append(Stored(node, slot, ids, float(reward), half, truncated))
        self._rounds.append(round_index)
        self._counts = None

    @property
    def counts(self) -> list[Counts]:
        """What counts at each node, summed; anew after a continuation was added."""
        if self._counts is None:
            self._counts = self._count()
        return self._counts

    def _count(self) -> list[Counts]:
        passes = self.passes()
        offset_N = np.cumsum([0, *(len(node.token_ids) for node in self.nodes)])
        width, rounds = int(offset_N[-1]), max(self._rounds, default=0) + 1
        which = passes.continuation
        reward_M, half_M, cut_M = (
            np.array([getattr(stored, name) for stored in self.continuations], dtype=kind)[which]
            for name, kind in (("reward", float), ("half", np.int64), ("truncated", float))
        )
        row_M = np.array(self._rounds, dtype=np.int64)[which] * 2 + half_M
        cell_M = row_M * width + offset_N[passes.node] + passes.slot
        one_M, leaves_M = np.ones(len(which)), passes.leaf.astype(np.float64)
        square_M = reward_M**2
        columns = {
            "n": one_M,
            "forced": (passes.offset == 0).astype(np.float64),
            "total": reward_M,
            "square": square_M,
            "leak_n": leaves_M,
            "leak_total": leaves_M * reward_M,
            "leak_square": leaves_M * square_M,
            "truncated": cut_M,
        }
        sums: dict[str, list[Floats]] = {}
        for name, weights_M in columns.items():
            total_W = np.bincount(cell_M, weights_M, rounds * 2 * width).astype(np.float64)
            sums[name] = np.split(total_W.reshape(rounds, 2, width), offset_N[1:-1], axis=2)
        return [
            Counts(**{name: parts[node] for name, parts in sums.items()})
            for node in range(len(self.nodes))
        ]

    def passes(self) -> Passes:
        """Return which continuation counts where."""
        self.link()
        assert self._router is not None
        new = self.continuations[self._num_followed :]
        if new or not self._followed:
            self._followed.append(self._router.follow(new, self._num_followed))
            self._num_followed += len(new)
        if len(self._followed) > 1:
            self._followed = [Passes.joined(self._followed)]
        return self._followed[0]


def common_prefix(first: Ids, second: Ids) -> int:
    """Length of the longest common prefix of two arrays of token ids."""
    length = min(len(first), len(second))
    # Most pairs part within a few tokens; looking there first spares comparing all of them.
    start = 0
    for stop in (min(8, length), length):
        different = first[start:stop] != second[start:stop]
        if different.any():
            return start + int(different.argmax())
        start = stop
    return length
