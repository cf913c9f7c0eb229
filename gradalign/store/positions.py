"""The student's own figures along each spine, read back from the table `positions`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.diagnostics.overlap import TOP_K
from gradalign.store.folder import RunFolder


@dataclass(frozen=True)
class SpinePositions:
    """The student along one spine. Axes: _L positions, _N chosen nodes, _K top tokens.

    Attributes:
        logprob_L, entropy_L: of the drawn token, and of the whole distribution (nats).
        top_ids_LK, top_logprobs_LK: the k tokens that overlap is measured on.
        chosen: positions of the nodes, rising, [N].
        inclusion_N: their inclusion probabilities.
        node_top_ids, node_top_logprobs: per node, the student's `support_size` top tokens.
    """

    logprob_L: npt.NDArray[np.float32]
    entropy_L: npt.NDArray[np.float32]
    top_ids_LK: npt.NDArray[np.int32]
    top_logprobs_LK: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.int64]
    inclusion_N: npt.NDArray[np.float64]
    node_top_ids: list[npt.NDArray[np.int32]]
    node_top_logprobs: list[npt.NDArray[np.float32]]


def read_positions(
    folder: RunFolder, shard: str, table_name: str = "positions"
) -> dict[str, SpinePositions]:
    """Read a shard's positions by spine id; `table_name` is a table of the same columns."""
    table = folder.read_table(table_name, shard)
    spine_ids = np.asarray(table["spine_id"].to_pylist(), dtype=object)
    logprob = table["student_logprob"].to_numpy()
    entropy = table["student_entropy"].to_numpy()
    inclusion = table["inclusion_prob"].to_numpy()
    top_ids = table["top_ids"].combine_chunks()
    top_logprobs = table["top_logprobs"].combine_chunks()
    edges = np.flatnonzero(np.r_[True, spine_ids[1:] != spine_ids[:-1]]).tolist()
    starts: list[int] = edges if len(table) else []
    ends = [*starts[1:], len(table)][: len(starts)]
    spines: dict[str, SpinePositions] = {}
    for start, end in zip(starts, ends, strict=True):
        ids = [top_ids[i].values.to_numpy() for i in range(start, end)]
        logprobs = [top_logprobs[i].values.to_numpy() for i in range(start, end)]
        chosen = np.flatnonzero(~np.isnan(inclusion[start:end]))
        spines[str(spine_ids[start])] = SpinePositions(
            logprob_L=logprob[start:end],
            entropy_L=entropy[start:end],
            top_ids_LK=np.stack([row[:TOP_K] for row in ids]),
            top_logprobs_LK=np.stack([row[:TOP_K] for row in logprobs]),
            chosen=chosen,
            inclusion_N=inclusion[start:end][chosen],
            node_top_ids=[ids[n] for n in chosen],
            node_top_logprobs=[logprobs[n] for n in chosen],
        )
    return spines
