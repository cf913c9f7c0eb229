"""clip-turns: clipping every token's summand before the sum can turn a node's update round."""

from __future__ import annotations

from dataclasses import replace

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.subject import Subject
from gradalign.methods.gkd import OPSD

LEAST = 0.01


def check(subject: Subject) -> Finding | None:
    """Compare the clipped update with the unclipped one, node by node."""
    method = subject.teacher
    if not isinstance(method, OPSD) or not method.clip:
        return None
    free_NS = ascent(replace(method, clip=0.0))
    found = compare(subject.applied_NS, free_NS)
    if found.turned < LEAST:
        return None
    return Finding(
        "warning",
        f"Every token's summand is clipped at {method.clip:g} before the sum. What the teacher "
        "wants most is clipped first, and is then pushed down with the rest. This is a hazard, no "
        "mistake: its authors find it better than clipping the sum. A port reports AIME24 .458 to "
        ".569 with it, without an arm that has no clip.",
        f"On the made-up nodes it turns {found.turned:.0%} of the updates round; pooled cosine to "
        f"the same loss without a clip {found.cosine:+.2f}.",
        "Score both: gradalign score --method opsd --method opsd:clip=0 (or a larger clip).",
        ("jsd_token_clip", "distillation_kl_clip"),
        {"turned": found.turned, "cosine": found.cosine, "by_kind": found.by_kind},
        Drawn(free_NS, subject.applied_NS, "without the clip", "with it"),
    )


RULE = Rule(
    name="clip-turns",
    title="a clip before the sum can turn the update round",
    levels=("warning",),
    source=(
        "siyan-zhao/OPSD issues 2, 14 and 24; TRL pull request 5990; miles pull request 3292 (the "
        "figures of AIME24)"
    ),
    check=check,
    example=Example("opsd", "run.sh", "python opsd_train.py --beta 0 --jsd_token_clip 0.05\n"),
)
