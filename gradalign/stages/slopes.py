"""How each candidate's logit follows the student's output layer, for update-level alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.errors import UsageError
from gradalign.models.output_layer import logit_slopes
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.teachers import open_student_model
from gradalign.store.shard import read_hidden
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StudentSlopes:
    """Slopes of the candidates' logits, from what the output layer read at every node."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute slopes"
    unit: ClassVar[str] = "nodes"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's slopes are there."""
        return run.folder.has_table("slopes", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            yield lambda shard, tick: _slopes_shard(run, model, shard, tick)


def _slopes_shard(run: Run, model: torch.nn.Module, shard: str, tick: Tick) -> Counter[str]:
    nodes = run.folder.read_table("nodes", shard)
    node_ids = [str(node) for node in nodes["node_id"].to_pylist()]
    candidates = _candidates(run, shard, node_ids)
    slopes_N: list[npt.NDArray[np.float64]] = []
    if candidates:
        hidden = read_hidden(run.folder, shard)
        if hidden is None:
            raise UsageError(
                "--alignment update: the student's output layer does not give its logits by "
                "itself.",
                "Leave --alignment update out.",
            )
        width = max(len(tokens) for tokens in candidates)
        token_NC = np.full((len(candidates), width), -1, dtype=np.int64)
        for row, tokens in enumerate(candidates):
            token_NC[row, : len(tokens)] = tokens
        slope_NC = logit_slopes(model, np.stack([hidden[node] for node in node_ids]), token_NC)
        slopes_N = [
            slope_C[: len(tokens)] for slope_C, tokens in zip(slope_NC, candidates, strict=True)
        ]
    rows = Rows("slopes")
    rows.add(
        len(node_ids),
        question_id=nodes["question_id"],
        node_id=nodes["node_id"],
        slopes=slopes_N,
    )
    tick(len(node_ids), len(node_ids), len(node_ids))
    run.folder.write_table("slopes", shard, rows.table_of())
    return Counter()


def _candidates(run: Run, shard: str, node_ids: list[str]) -> list[list[int]]:
    """Return each node's candidates in order of the table `branches`."""
    branches = run.folder.read_table("branches", shard)
    found: dict[str, list[int]] = {node: [] for node in node_ids}
    for node, token in zip(
        branches["node_id"].to_pylist(), branches["token_id"].to_pylist(), strict=True
    ):
        found[str(node)].append(token)
    return list(found.values())
