"""Size of a run's tables from its counts, where nothing was measured."""

from __future__ import annotations

from typing import Any

from gradalign.analysis.align import arms_of
from gradalign.models import config_number, load_config
from gradalign.models.weight_space import SKETCH
from gradalign.planning.figures import Figures
from gradalign.stages.base import Run

TOKEN = 4
LOGPROB = 4
HIDDEN = 4
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
    nodes, width = figures.nodes, _hidden_size(run)
    scored = figures.scored_tokens * LOGPROB
    return float(
        figures.spine_tokens * (TOKEN + POSITION_ROW + teachers * TOKEN_ROW)
        + nodes * (config.support_size * (TOKEN + LOGPROB) + width * HIDDEN)
        + nodes * teachers * support * (2 * TOKEN + 3 * LOGPROB)
        + figures.continuations * (CONTINUATION_ROW + PASS_ROW)
        + figures.continuation_tokens * TOKEN
        + scored
        + figures.branches * BRANCH_ROW
        + nodes * teachers * len(config.methods) * ALIGNMENT_ROW
        + (_sketch_bytes(run, figures) if "weights" in config.alignment else 0)
    )


def _sketch_bytes(run: Run, figures: Figures) -> float:
    """Size of the questions' sketched updates, one per arm and one of the ideal direction."""
    arms = 1 + len(arms_of(run))
    return float(figures.questions * arms * SKETCH * HIDDEN)


def _hidden_size(run: Run) -> int:
    config = run.config
    settings: Any = load_config(
        config.student, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return config_number(settings, "hidden_size") or 0
