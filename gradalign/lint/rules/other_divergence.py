"""other-divergence: the update is that of another divergence than the file's words say."""

from __future__ import annotations

import numpy as np

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import KINDS, made_up
from gradalign.lint.subject import Subject
from gradalign.methods import Method, get
from gradalign.methods.distributions import Floats

DIVERGENCES = {
    "gkd:beta=0": "forward KL(Q||P)",
    "opd": "reverse KL(P||Q)",
    "gkd": "Jensen-Shannon divergence",
}
ALIKE = 0.999
"""Median cosine of the nodes from which on two directions are the same."""

APART = 0.9
"""Pooled cosine below which a direction is not the promised one."""

TELLING = ("far", "peaked")
"""Kinds of nodes on which divergences differ; near the teacher they are all alike."""


def check(subject: Subject) -> Finding | None:
    """Look for the divergence whose direction it is."""
    if subject.promise == subject.teacher or not np.any(subject.applied_NS):
        return None
    found = compare(subject.applied_NS, subject.promised_NS)
    if found.cosine > APART:
        return None
    alike = {spec: _alike(subject.applied_NS, ascent(get(spec))) for spec in DIVERGENCES}
    best = max(alike, key=lambda spec: alike[spec])
    if alike[best] < ALIKE or best == _plain(subject.promise):
        return None
    promised = DIVERGENCES.get(_plain(subject.promise), subject.promise.spec)
    return Finding(
        "warning",
        f"Named a {promised}, on average it is the gradient of the {DIVERGENCES[best]}.",
        f"Median cosine to {best} on far and peaked made-up nodes {alike[best]:.4f}; pooled cosine "
        f"to {_plain(subject.promise)} {found.cosine:+.2f}, {found.turned:.0%} of nodes turned "
        "round.",
        f"If the {promised} is wanted, choose a loss whose gradient it is (verl: loss_mode=k1 "
        "with use_policy_gradient=true, or k2 without).",
        ("loss_mode", "kl_direction", "kd_objective", "kl_type"),
        {"is": best, "cosine": found.cosine, "turned": found.turned, "alike": alike[best]},
        Drawn(subject.promised_NS, subject.applied_NS, subject.promise.spec, subject.teacher.spec),
    )


def _plain(method: Method) -> str:
    return method.spec.replace(",per=sequence", "").replace(":per=sequence", "")


def _alike(one_NS: Floats, other_NS: Floats) -> float:
    """Return the median cosine on nodes where divergences differ."""
    here_N = np.isin(made_up().kind_N, [KINDS.index(kind) for kind in TELLING])
    one_NS, other_NS = one_NS[here_N], other_NS[here_N]
    size_N = np.linalg.norm(one_NS, axis=1) * np.linalg.norm(other_NS, axis=1)
    dot_N = np.vecdot(one_NS, other_NS)[size_N > 0.0]
    return float(np.median(dot_N / size_N[size_N > 0.0])) if dot_N.size else 0.0


RULE = Rule(
    name="other-divergence",
    title="another divergence than its name says",
    levels=("warning",),
    source=(
        "verl 0.9.1 trainer/distillation/losses.py (k3, differentiated); TorchRL 0.14.1 "
        "objectives/llm/distillation.py:25"
    ),
    check=check,
    example=Example(
        "verl",
        "run.sh",
        "python -m verl.trainer.main_ppo distillation.enabled=true \\\n"
        "  distillation.distillation_loss.loss_mode=k3 \\\n"
        "  distillation.distillation_loss.use_task_rewards=false\n",
    ),
)
