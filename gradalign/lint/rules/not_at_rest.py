"""not-at-rest: the loss moves a student that agrees with its teacher already."""

from __future__ import annotations

import numpy as np

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import KINDS, agreed, made_up
from gradalign.lint.subject import Subject

MEASURED = {
    "tinker/sdft": " Its authors measured no loss by it: tool use 68.0 with 20 tokens as with all."
}
"""What trainers' authors say of it."""

LEAST = 0.01
"""Length of the update at agreement over that towards a teacher, from which on it counts."""


def check(subject: Subject) -> Finding | None:
    """Take the update where the teacher's logits are the student's own."""
    if subject.promise == subject.teacher:
        return None
    rest_NS = ascent(subject.teacher, agreed())
    size = float(np.linalg.norm(rest_NS)) / max(float(np.linalg.norm(subject.applied_NS)), 1e-300)
    if not np.any(subject.applied_NS) or size < LEAST:
        return None
    near_N = made_up().kind_N == KINDS.index("near")
    near = float(np.linalg.norm(rest_NS[near_N]) / np.linalg.norm(subject.applied_NS[near_N]))
    found = compare(subject.applied_NS, subject.promised_NS)
    return Finding(
        "warning" if near > 0.5 else "note",
        "The set of tokens is not renormalised and has no tail. Where student and teacher agree, "
        "tokens of the set are still pushed up, and all others down."
        + MEASURED.get(subject.trainer.name, ""),
        f"Where both models agree the update is {size:.2g} times as long as with the teachers, and "
        f"{near:.2g} times as long as with those near the student; pooled cosine to "
        f"{subject.promise.spec} {found.cosine:+.2f}.",
        "Renormalise both models on the set, add a tail bucket, or keep more tokens.",
        ("topk", "kd_online_topk", "kd_normalize_topk", "loss_mode", "zero_outside_topk"),
        {"at_agreement": size, "near": near, "cosine": found.cosine},
        Drawn(np.zeros(rest_NS.shape), rest_NS, "both models agree: nothing", subject.teacher.spec),
    )


RULE = Rule(
    name="not-at-rest",
    title="tokens outside the top-k are pushed down also where both models agree",
    levels=("warning", "note"),
    source=(
        "verl issues 7806, 7855 and 7856; tinker-cookbook 0.6.1 distillation/sdft.py:299 and "
        "recipes/sdft/README.md; axolotl 0.19.0 kd/topk_logprob/forward_kl.py"
    ),
    check=check,
    example=Example("tinker/sdft", "run.json", '{"golden_answer": "answer", "topk": 20}\n'),
)
