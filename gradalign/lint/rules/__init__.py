"""Every rule of `gradalign lint`, a file each; each says where it was met."""

from __future__ import annotations

from gradalign.lint.findings import Rule
from gradalign.lint.rules import (
    clamped_away,
    clip_turns,
    group_normalisation,
    length_normalisation,
    negative_loss,
    not_at_rest,
    other_divergence,
    other_top_k,
    pad_is_end,
    reference_kl,
    shifted_teacher,
    temperature,
    unknown_key,
    zero_signal,
)

RULES: tuple[Rule, ...] = (
    zero_signal.RULE,
    other_divergence.RULE,
    clamped_away.RULE,
    clip_turns.RULE,
    temperature.RULE,
    not_at_rest.RULE,
    other_top_k.RULE,
    negative_loss.RULE,
    reference_kl.RULE,
    group_normalisation.RULE,
    length_normalisation.RULE,
    unknown_key.RULE,
    shifted_teacher.RULE,
    pad_is_end.RULE,
)
"""In the order in which they are told."""
