"""length-normalisation: a token of a short response weighs more than one of a long response."""

from __future__ import annotations

import numpy as np

from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.subject import Subject

LENGTHS = np.array([100, 200, 500, 1000, 2000, 5000])
"""Tokens of made-up responses."""


def check(subject: Subject) -> Finding | None:
    """Weigh tokens as a mean of responses' own means does, and as a mean over tokens does."""
    of_method = getattr(subject.teacher, "per", "token") == "sequence"
    if not of_method and subject.beside("length") != "sequence":
        return None
    lengths = LENGTHS.astype(np.float64)
    weight = 1.0 / lengths
    # Every token's update has the same size and a direction of its own.
    cosine = float((lengths * weight).sum() / np.sqrt(lengths.sum() * (lengths * weight**2).sum()))
    ratio = float(lengths.max() / lengths.min())
    return Finding(
        "note",
        "The loss is a mean of responses' own means: a token of a short response weighs more. "
        "With a task reward long wrong responses are punished less per token, and so favoured.",
        f"A token of a response of {LENGTHS[0]} tokens weighs {ratio:.0f} times one of "
        f"{LENGTHS[-1]:,}; cosine of a sum over such responses to that with equal tokens "
        f"{cosine:+.2f}.",
        "Take the mean over tokens, or divide by a constant as Dr. GRPO does.",
        (
            *((subject.key_of("length"),) if "length" in subject.trainer.beside else ()),
            "normalize_by_seq_length",
        ),
        {"weight": ratio, "cosine": cosine},
        Drawn(
            np.ones((1, lengths.size)),
            (weight / weight.max())[None],
            "mean over tokens",
            "mean of means",
            tuple(f"{length:,}" for length in LENGTHS),
            "tokens of a response",
        ),
    )


RULE = Rule(
    name="length-normalisation",
    title="short responses' tokens weigh more",
    levels=("note",),
    source="Liu et al., arXiv 2503.20783, section 3.1; TorchRL 0.14.1 normalize_by_seq_length",
    check=check,
    example=Example(
        "torchrl", "config.json", '{"kl_direction": "forward", "normalize_by_seq_length": true}\n'
    ),
)
