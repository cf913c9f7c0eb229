"""Update-level alignment of a whole run, from its directions and hidden states.

`update_level` goes through pairs of shards, so that two shards are in memory at a time, whatever
the number of questions. Axes: _T flat entries of lists, _M rows of the table `directions`, _X other
tokens, with the candidates before them where an array has both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gradalign import methods
from gradalign.alignment.ideal import ideal_gradient
from gradalign.alignment.update import (
    IDEAL,
    GramSums,
    UpdateEstimate,
    Updates,
    update_estimate,
)
from gradalign.analysis.align import arms_of
from gradalign.analysis.node_views import NodeTable, read_nodes
from gradalign.estimates import Arm
from gradalign.stages.base import Run
from gradalign.store.shard import padded, read_hidden

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def update_level(run: Run) -> dict[Arm, UpdateEstimate]:
    """Update-level alignment of every teacher and method, from the tables of a run.

    The update of the output layer's weight by each is compared with the ideal one: see
    `gradalign.alignment.update`. Nodes are weighted by their inclusion probability; one that
    a method has no direction at, or that a teacher was not shown, counts as zero, and with
    `mask_special` one where a special token was drawn. A direction counts outside the candidates
    too, with the mean slope of the node's candidates there; the ideal one is nothing there. Methods
    that use continuations bring what each half of them gives, for their squared length.

    The cost is arithmetic, half of nodes^2 x hidden size multiplications for all methods together,
    and memory for two shards and, for every method, two numbers per pair of questions.
    """
    sums = gram_sums(run)
    return {arm: update_estimate(sums.grams(arm)) for arm in arms_of(run)}


def gram_sums(run: Run) -> GramSums:
    """Return the inner products of the questions' updates, which any set of them is judged by."""
    shards = run.shards()
    ids = question_ids(run)
    index_of = {question_id: index for index, question_id in enumerate(ids)}
    sums = GramSums(len(ids), arms_of(run))
    for place, shard in enumerate(shards):
        left = _read(run, shard, index_of)
        sums.add(left, left)
        for other in shards[place + 1 :]:
            sums.add(left, _read(run, other, index_of))
    return sums


def question_ids(run: Run) -> list[str]:
    """Return the questions in the order of influences."""
    return [
        str(question)
        for shard in run.shards()
        for question in run.folder.read_table("questions", shard)["question_id"].to_pylist()
    ]


def _read(run: Run, shard: str, index_of: dict[str, int]) -> Updates:
    """Read a shard's nodes; directions are multiplied by the nodes' weights."""
    nodes = read_nodes(run.folder, shard)
    weight_N = 1.0 / nodes.column("inclusion_prob")
    if run.config.mask_special:
        weight_N = np.where(nodes.column("special").astype(np.bool_), 0.0, weight_N)
    stored = _Stored(run, shard, nodes)
    # The ideal gradient and every direction are on the logits: the layer's weight is moved through
    # whatever the model does to the layer's output.
    slope_NC = _slopes(run, shard, nodes)
    mean_N = slope_NC.sum(axis=1, where=nodes.mask_NC) / np.maximum(nodes.mask_NC.sum(axis=1), 1)
    factor_NX = weight_N[:, None] * np.concatenate(
        [slope_NC, np.broadcast_to(mean_N[:, None], stored.token_NX.shape)], axis=1
    )
    mass_N = np.where(nodes.mask_NC, nodes.prob_NC, 0.0).sum(axis=1)
    ideal_NX = np.zeros(factor_NX.shape)
    ideal_NX[:, : nodes.mask_NC.shape[1]] = mass_N[:, None] * np.nan_to_num(
        ideal_gradient(nodes.prob_NC, nodes.value_NC, nodes.mask_NC)
    )
    # Success is that of a response, and a question's own is the mean over its responses.
    directions = {IDEAL: factor_NX * ideal_NX / run.config.num_rollouts}
    halves = {}
    for arm in arms_of(run):
        directions[arm] = factor_NX * stored.direction(arm)
        if methods.get(arm.method).uses_continuations:
            halves[arm] = factor_NX * np.stack([stored.half(arm, name) for name in HALVES])
    return Updates(
        token_NC=np.concatenate(
            [np.where(nodes.mask_NC, nodes.token_NC, -1), stored.token_NX], axis=1
        ),
        hidden_ND=_hidden(run, shard, nodes),
        question_N=np.array([index_of[name] for name in nodes.ids("question_id")], dtype=np.int64),
        directions=directions,
        halves=halves,
    )


HALVES = ("half0", "half1")


class _Stored:
    """A shard's table `directions` on one axis of tokens: the candidates, then all others.

    Args:
        run: the run.
        shard: name of the shard.
        nodes: its nodes.
    """

    def __init__(self, run: Run, shard: str, nodes: NodeTable) -> None:
        self._table = run.folder.read_table("directions", shard)
        self._row_M = np.array(
            [nodes.row_of[str(name)] for name in self._table["node_id"].to_pylist()], np.int64
        )
        arms = zip(
            self._table["teacher"].to_pylist(), self._table["method"].to_pylist(), strict=True
        )
        self._place: dict[Arm, list[int]] = {}
        for place, arm in enumerate(map(Arm._make, arms)):
            self._place.setdefault(arm, []).append(place)
        self._known_NC, self._count_N = nodes.mask_NC, (nodes.token_NC >= 0).sum(axis=1)
        count_M, token_T = _flat(self._table["other_ids"])
        self._begin_M = np.cumsum(count_M) - count_M
        row_T = np.repeat(self._row_M, count_M)
        size = int(token_T.max(initial=0)) + 1
        pair_U, at_T = np.unique(row_T * size + token_T.astype(np.int64), return_inverse=True)
        row_U = pair_U // size
        first_U = np.searchsorted(row_U, row_U)
        column_U = np.arange(len(row_U)) - first_U
        self.token_NX = np.full((len(nodes.row_of), int(column_U.max(initial=-1)) + 1), -1)
        self.token_NX[row_U, column_U] = pair_U % size
        self._column_T = column_U[at_T]

    def direction(self, arm: Arm) -> Floats:
        """Return an arm's direction; 0 where it has none, [N, C + X]."""
        return self._spread(arm, ("direction", "other_direction"))

    def half(self, arm: Arm, name: str) -> Floats:
        """Return it from one half of the continuations, [N, C + X]."""
        return self._spread(arm, (name,))

    def _spread(self, arm: Arm, columns: tuple[str, ...]) -> Floats:
        """Put an arm's lists, one after the other, where their tokens are."""
        width = self._known_NC.shape[1]
        out = np.zeros((len(self.token_NX), width + self.token_NX.shape[1]))
        places = np.array(self._place.get(arm, []), dtype=np.int64)
        offset = np.zeros(len(places), dtype=np.int64)
        for name in columns:
            count_M, value_T = _flat(self._table[name].take(pa.array(places)))
            entry_T = np.repeat(np.arange(len(places)), count_M)
            number_T = np.arange(len(entry_T)) - np.repeat(np.cumsum(count_M) - count_M, count_M)
            number_T += offset[entry_T]
            row_T = self._row_M[places][entry_T]
            inside_T = number_T < self._count_N[row_T]
            column_T = number_T.copy()
            other_T = self._begin_M[places][entry_T] + number_T - self._count_N[row_T]
            column_T[~inside_T] = width + self._column_T[other_T[~inside_T]]
            out[row_T, column_T] = np.nan_to_num(value_T)
            offset += count_M
        return out


def _flat(lists: pa.ChunkedArray) -> tuple[Ints, npt.NDArray[Any]]:
    """Return how long each list is, and all entries; NaN for null."""
    count_M = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    return count_M, np.asarray(pc.list_flatten(lists).to_numpy())


def _slopes(run: Run, shard: str, nodes: NodeTable) -> Floats:
    """Return the slope of each candidate's logit, [N, C]; 1 at padding."""
    slope_NC = np.ones(nodes.mask_NC.shape)
    found_NC, there_NC = padded(run.folder.read_table("slopes", shard)["slopes"], 0.0)
    slope_NC[:, : found_NC.shape[1]][there_NC] = found_NC[there_NC]
    return slope_NC


def _hidden(run: Run, shard: str, nodes: NodeTable) -> Floats:
    """Return what the output layer reads at each node, [N, D]."""
    hidden = read_hidden(run.folder, shard) or {}
    if not nodes.row_of:
        return np.zeros((0, 0))
    return np.stack([hidden[node_id] for node_id in nodes.row_of]).astype(np.float64)
