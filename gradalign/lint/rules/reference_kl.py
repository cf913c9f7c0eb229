"""reference-kl: a KL to the reference model on top holds the student back from the teacher."""

from __future__ import annotations

import numpy as np

from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import made_up
from gradalign.lint.subject import Subject
from gradalign.methods.distributions import Floats, log_normalise

ROLES = ("reference_kl", "reference_kl_in_reward")
LITTLE, MUCH = 0.01, 0.1
"""Share of the divergence to the teacher that is left at rest: worth a note, worth a warning."""


def check(subject: Subject) -> Finding | None:
    """Find where c KL(P||Q) + b KL(P||R) rests: at Q^(c/(b+c)) R^(b/(b+c)), normalised."""
    held = {role: _number(subject.beside(role)) for role in ROLES}
    weight = sum(held.values())
    if weight <= 0.0 or subject.coefficient <= 0.0 or not np.any(subject.applied_NS):
        return None
    share = weight / (weight + subject.coefficient)
    nodes = made_up().batch.at(1.0)
    rest_NS, _ = log_normalise(share * nodes.log_p_NS + (1.0 - share) * nodes.log_q_NS)
    left = _divergence(rest_NS, nodes.log_q_NS) / _divergence(nodes.log_p_NS, nodes.log_q_NS)
    if left < LITTLE:
        return None
    return Finding(
        "warning" if left >= MUCH else "note",
        f"A KL to the reference of weight {weight:g} pulls back what the teacher's term of weight "
        f"{subject.coefficient:g} pulls forth: the student rests between the two.",
        f"On the made-up nodes {left:.0%} of the reverse KL to the teacher is left there; "
        f"the reference has a share of {share:.0%} in the log-probabilities.",
        "Switch the KL to the reference off: the teacher is one already.",
        tuple(subject.key_of(role) for role in ROLES if held[role] > 0.0),
        {"left": left, "share": share},
        Drawn(nodes.q_NS, np.exp(rest_NS), "the teacher", "where the student rests"),
    )


def _divergence(log_p_NS: Floats, log_q_NS: Floats) -> float:
    return float((np.exp(log_p_NS) * (log_p_NS - log_q_NS)).sum())


def _number(value: object) -> float:
    try:
        return float(value) if value is not None else 0.0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0


RULE = Rule(
    name="reference-kl",
    title="a KL to the reference model pulls against the teacher",
    levels=("warning", "note"),
    source="ms-swift 4.6.0 rlhf_args.py:357 (0.04 unless told); NeMo-RL pull request 3256; ours",
    check=check,
    example=Example(
        "miles",
        "run.sh",
        "python train.py --use-opd --opd-kl-coef 0.1 \\\n  --use-kl-loss --kl-loss-coef 0.1\n",
    ),
)
