"""Update-level alignment of a whole run, from its directions and hidden states.

`update_level` goes through pairs of shards, so that two shards are in memory at a time, whatever
the number of questions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradalign.alignment.ideal import ideal_gradient
from gradalign.alignment.update import (
    IDEAL,
    GramSums,
    Key,
    UpdateEstimate,
    Updates,
    update_estimate,
)
from gradalign.analysis.align import arms_of
from gradalign.analysis.node_views import NodeTable, read_directions, read_nodes
from gradalign.stages.base import Run
from gradalign.store.shard import padded

Floats = npt.NDArray[np.float64]


def update_level(run: Run) -> dict[Key, UpdateEstimate]:
    """Update-level alignment of every teacher and method, from the tables of a run.

    The update of the output layer's weight by each is compared with the ideal one: see
    `gradalign.alignment.update`. Nodes are weighted by their inclusion probability; one that
    a method has no direction at, or that a teacher was not shown, counts as zero, and with
    `mask_special` one where a special token was drawn. Methods that use continuations need no
    cross-fitting, as only different questions are paired.

    The cost is arithmetic, half of nodes^2 x hidden size multiplications for all methods together,
    and memory for two shards and, for every method, two numbers per pair of questions.
    """
    shards = run.shards()
    ids: list[str] = []
    for shard in shards:
        ids += map(str, run.folder.read_table("questions", shard)["question_id"].to_pylist())
    index_of = {question_id: index for index, question_id in enumerate(ids)}
    sums = GramSums(len(ids), arms_of(run))
    for place, shard in enumerate(shards):
        left = _read(run, shard, index_of)
        sums.add(left, left)
        for other in shards[place + 1 :]:
            sums.add(left, _read(run, other, index_of))
    return {key: update_estimate(sums.grams(key)) for key in arms_of(run)}


def _read(run: Run, shard: str, index_of: dict[str, int]) -> Updates:
    """Read a shard's nodes; directions are multiplied by the nodes' weights."""
    nodes = read_nodes(run.folder, shard)
    weight_N = 1.0 / nodes.column("inclusion_prob")
    if run.config.mask_special:
        weight_N = np.where(nodes.column("special").astype(np.bool_), 0.0, weight_N)
    # The ideal gradient and every direction are on the logits: the layer's weight is moved through
    # whatever the model does to the layer's output.
    factor_NC = weight_N[:, None] * _slopes(run, shard, nodes)
    found = {key: np.zeros(nodes.mask_NC.shape) for key in arms_of(run)}
    found[IDEAL] = np.nan_to_num(ideal_gradient(nodes.prob_NC, nodes.value_NC, nodes.mask_NC))
    for key, (rows_M, direction_MC) in read_directions(run.folder, shard, nodes).items():
        found[key][rows_M] = np.nan_to_num(direction_MC)
    return Updates(
        token_NC=np.where(nodes.mask_NC, nodes.token_NC, -1),
        hidden_ND=_hidden(run, shard, len(weight_N)),
        question_N=np.array([index_of[name] for name in nodes.ids("question_id")], dtype=np.int64),
        directions={key: found[key] * factor_NC for key in (IDEAL, *arms_of(run))},
    )


def _slopes(run: Run, shard: str, nodes: NodeTable) -> Floats:
    """Return the slope of each candidate's logit, [N, C]; 1 at padding."""
    slope_NC = np.ones(nodes.mask_NC.shape)
    found_NC, there_NC = padded(run.folder.read_table("hidden", shard)["slopes"], 0.0)
    slope_NC[:, : found_NC.shape[1]][there_NC] = found_NC[there_NC]
    return slope_NC


def _hidden(run: Run, shard: str, count: int) -> Floats:
    lists = run.folder.read_table("hidden", shard)["hidden"].combine_chunks()
    flat = np.asarray(lists.flatten().to_numpy(), dtype=np.float64)
    return flat.reshape(count, -1) if count else np.zeros((0, 0))
