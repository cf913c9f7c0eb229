"""group-normalisation: a task reward is divided by its group's deviation."""

from __future__ import annotations

import numpy as np

from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.subject import Subject

RATES = np.array([1 / 64, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 63 / 64])
"""Chances of success of made-up questions."""


def check(subject: Subject) -> Finding | None:
    """Weigh questions as the trainer does, and as Dr. GRPO does."""
    if not subject.rewarded or subject.beside("group_std") is not True:
        return None
    variance = RATES * (1.0 - RATES)
    # A question's gradient is as long as its rewards spread; its direction is its own.
    plain, divided = variance, variance / np.sqrt(variance)
    cosine = float(plain @ divided / np.linalg.norm(plain) / np.linalg.norm(divided))
    ratio = float(np.sqrt(variance.max() / variance.min()))
    return Finding(
        "note",
        "Advantages of the task reward are divided by their group's deviation. Nearly solved and "
        "nearly hopeless questions weigh more, which Dr. GRPO avoids. Without a task reward this "
        "does nothing.",
        f"A question solved once in 64 times weighs {ratio:.1f} times more than one solved every "
        f"other time; cosine of a sum over questions to that of Dr. GRPO {cosine:+.2f}.",
        "Switch the division off, as Dr. GRPO does.",
        (subject.key_of("group_std"),),
        {"weight": ratio, "cosine": cosine},
        Drawn(
            (plain / plain.max())[None],
            (divided / divided.max())[None],
            "Dr. GRPO",
            "divided by the deviation",
            tuple(f"{rate:.0%}" for rate in RATES),
            "success rate of a question",
        ),
    )


RULE = Rule(
    name="group-normalisation",
    title="rewards are divided by their group's deviation",
    levels=("note",),
    source="Liu et al., arXiv 2503.20783, section 3.1",
    check=check,
    example=Example(
        "trl/sdpo",
        "config.yaml",
        "distillation_mode: sampled_token\ndistillation_weight: 0.5\nscale_rewards: group\n",
    ),
)
