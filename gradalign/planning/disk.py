"""Size of a run's tables from its counts, where nothing was measured."""

from __future__ import annotations

from typing import Any

from gradalign.analysis.align import arms_of
from gradalign.config import chosen_diagnostics
from gradalign.models import config_number, load_config
from gradalign.models.weight_space import SKETCH
from gradalign.planning.figures import Figures
from gradalign.stages.base import Run
from gradalign.stages.weights.answer_gradients import WIDTH
from gradalign.stages.weights.gradients import GROUPS, num_parameters
from gradalign.store.splits import QUARTERS

TOKEN = 4
LOGPROB = 4
HIDDEN = 4
POSITION_ROW = 16 * (TOKEN + LOGPROB) + 24
TOKEN_ROW = 48
CONTINUATION_ROW = 40
PASS_ROW = 12
BRANCH_ROW = 110
ALIGNMENT_ROW = 100
PRODUCT_ROW = 56
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
        + (figures.questions * len(arms_of(run)) ** 2 / 2 * PRODUCT_ROW if _grams(run) else 0.0)
        + (_weights_bytes(run, figures, support) if "weights" in config.alignment else 0)
    )


def _grams(run: Run) -> bool:
    """Whether the run keeps the inner products of its arms."""
    return "gram" in chosen_diagnostics(run.config.diagnose)


def _weights_bytes(run: Run, figures: Figures, support: int) -> float:
    """Size of what alignment in the weights keeps, and of the sums that it keeps for a while.

    That is sketches by arm and split, one of the ideal direction, derivatives on the tokens of
    every teacher, and steps of AdamW on questions and on batches.
    """
    config, arms = run.config, len(arms_of(run))
    splits = 3 + (len(QUARTERS) if config.weights_quarters else 0)
    sketches = figures.questions * (1 + splits * arms)
    if config.weights_adamw is not None:
        sketches += arms * (figures.questions + figures.questions // config.weights_batch)
    whole = (num_parameters(config) or 0) if config.weights_space == "all" else 0
    answers = figures.teacher_answers * WIDTH
    tokens = figures.nodes * support * max(len(run.teachers), 1)
    sketched = sketches * SKETCH + answers
    return float(sketched * HIDDEN + tokens * (TOKEN + LOGPROB) + GROUPS * whole * HIDDEN)


def _hidden_size(run: Run) -> int:
    config = run.config
    settings: Any = load_config(
        config.student, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    return config_number(settings, "hidden_size") or 0
