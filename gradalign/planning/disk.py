"""Size of a run's tables from its counts, where nothing was measured."""

from __future__ import annotations

from gradalign.planning.figures import Figures
from gradalign.stages.base import Run

TOKEN = 4
LOGPROB = 4
POSITION_ROW = 16 * (TOKEN + LOGPROB) + 24
TOKEN_ROW = 48
CONTINUATION_ROW = 40
PASS_ROW = 12
BRANCH_ROW = 110
ALIGNMENT_ROW = 100
"""Bytes of a row before compression: numbers of the schema, and a few for keys."""


def disk_bytes(run: Run, figures: Figures) -> float:
    """Add the tables up without compression, which gains something on all of them."""
    config, teachers = run.config, len(run.teachers)
    support = 2 * min(config.support_size, run.resolved.vocab_size) + 1
    nodes = figures.nodes
    scored = figures.scored_tokens * LOGPROB
    return float(
        figures.spine_tokens * (TOKEN + POSITION_ROW + teachers * TOKEN_ROW)
        + nodes * config.support_size * (TOKEN + LOGPROB)
        + nodes * teachers * support * (2 * TOKEN + 3 * LOGPROB)
        + figures.continuations * (CONTINUATION_ROW + PASS_ROW)
        + figures.continuation_tokens * TOKEN
        + scored
        + figures.branches * BRANCH_ROW
        + nodes * teachers * len(config.methods) * ALIGNMENT_ROW
    )
