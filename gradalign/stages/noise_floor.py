"""How far the engine that samples is from the passes that score: the same tokens by both.

P in every formula comes from transformers' passes; the tokens were drawn by the engine. Where
the two differ, nothing that is reported means more than that difference. A server's scores are over
all rows of its output layer, also those that stand for no token: their mass is part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.base import Engine
from gradalign.models.numbers import NotNumbersError
from gradalign.stages.base import Run
from gradalign.store.shard import read_positions

SPINES_PER_SHARD = 8

SCORER = "transformers"
"""The engine whose passes are the scoring passes: it has no noise against itself."""


def engine_scores(
    run: Run, engine: Engine, spines: Sequence[tuple[Sequence[int], npt.NDArray[np.int32]]]
) -> list[npt.NDArray[np.float32] | None]:
    """Let the engine score a few of a shard's spines, (prompt, response); None for the others.

    Nothing is scored where tokens are drawn from another distribution than the plain one:
    engines score at temperature 1 only.

    Raises:
        NotNumbersError: the engine gave no log-probability; its index is that of the spine.
    """
    found: list[npt.NDArray[np.float32] | None] = [None] * len(spines)
    if engine.name == SCORER or not run.sampling.is_plain or not spines:
        return found
    few = min(SPINES_PER_SHARD, len(spines))
    chosen = sorted({int(i) for i in np.linspace(0, len(spines) - 1, few).round()})
    try:
        scores = engine.logprobs(
            [[*spines[i][0], *spines[i][1].tolist()] for i in chosen],
            [len(spines[i][0]) for i in chosen],
        )
    except NotNumbersError as error:
        index = None if error.index is None else chosen[error.index]
        raise NotNumbersError(index, error.place) from None
    for i, score in zip(chosen, scores, strict=True):
        found[i] = score
    return found


def noise_floor(run: Run) -> dict[str, Any] | None:
    """Compare what engine and passes say of the same tokens; None if the engine said nothing.

    Returns:
        The engine, how many spines and tokens were compared, and the mean and the largest
        absolute gap of their log-probabilities (natural log).
    """
    gaps: list[npt.NDArray[np.float64]] = []
    for shard in run.shards():
        table = run.folder.read_table("spines", shard)
        column = table["engine_logprobs"].combine_chunks()
        if column.null_count == len(column):
            continue
        positions = read_positions(run.folder, shard)
        for row, spine_id in enumerate(table["spine_id"].to_pylist()):
            if column[row].is_valid:
                ours = positions[str(spine_id)].logprob_L.astype(np.float64)
                theirs = column[row].values.to_numpy().astype(np.float64)
                gaps.append(np.abs(ours - theirs))
    if not gaps:
        return None
    every = np.concatenate(gaps)
    return {
        "engine": run.resolved.engine,
        "spines": len(gaps),
        "tokens": len(every),
        "mean": float(every.mean()),
        "largest": float(every.max()),
    }


def unknown_candidates(run: Run) -> int:
    """Count the candidates of which a teacher's server said nothing, over all teachers."""
    return sum(
        run.folder.read_table("branch_teachers", shard)["teacher_prob"].null_count
        for shard in run.shards()
    )
