"""clamped-away: a clamp stops the gradient where student and teacher differ most."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import made_up
from gradalign.lint.subject import Subject
from gradalign.methods import Method, get

OPEN = {"max_clamp": float("inf"), "log_prob_min": float("-inf")}
"""Options that clamp, and their values at which they do not."""

AVERAGES = {"verl/k3": "gkd:beta=0"}
"""Estimators with a clamp that no option lifts, and what they average to without it."""

LEAST = 0.02
"""Share of nodes or of the update's length from which on it is worth a word."""

MUCH = 0.1


def check(subject: Subject) -> Finding | None:
    """Compare the update with that of the same loss without its clamps."""
    method = subject.teacher
    clamps = [item.name for item in fields(method) if item.name in OPEN]
    if not clamps or not np.any(subject.applied_NS):
        return None
    free = _free(method)
    free_NS = ascent(free)
    found = compare(subject.applied_NS, free_NS)
    clamped_N = np.array(["clamped" in reason for reason in _reasons(method)])
    zero = max(float(clamped_N.mean()), found.zero)
    lost = max(0.0, 1.0 - found.size * max(found.cosine, 0.0))
    if max(zero, lost) < LEAST:
        return None
    return Finding(
        "warning" if max(zero, lost) >= MUCH else "note",
        "Clamps stop the gradient of tokens or nodes, first where the student is furthest off.",
        f"On the made-up nodes {zero:.0%} have no gradient left, and {lost:.0%} of the length of "
        f"the update of {free.spec} is lost; pooled cosine {found.cosine:+.2f}. By kind: "
        + ", ".join(f"{kind} {value:+.2f}" for kind, value in found.by_kind.items())
        + ".",
        "Lift loss_max_clamp and log_prob_min_clamp, or take a loss that is bounded by itself "
        "(a tail bucket, k1 as a reward).",
        ("loss_max_clamp", "log_prob_min_clamp", "loss_mode"),
        {"zero": zero, "lost": lost, "cosine": found.cosine},
        Drawn(free_NS, subject.applied_NS, "without clamps", "with them"),
    )


def _free(method: Method) -> Method:
    if method.name in AVERAGES and getattr(method, "mode", "direct") == "direct":
        return get(AVERAGES[method.name])
    given = {item.name: OPEN[item.name] for item in fields(method) if item.name in OPEN}
    return replace(method, **given)


def _reasons(method: Method) -> list[str]:
    return list(method.direction(made_up().batch).reason_N)


RULE = Rule(
    name="clamped-away",
    title="a clamp takes the gradient away",
    levels=("warning", "note"),
    source=(
        "verl 0.9.1 trainer/distillation/losses.py (a top-k sum is clamped at 0; loss_max_clamp) "
        "and fsdp/losses.py (log_prob_min_clamp); verl issues 7806 and 7856"
    ),
    check=check,
    example=Example(
        "verl",
        "run.sh",
        "python -m verl.trainer.main_ppo distillation.enabled=true \\\n"
        "  distillation.distillation_loss.loss_mode=forward_kl_topk \\\n"
        "  distillation.distillation_loss.use_task_rewards=false \\\n"
        "  distillation.distillation_loss.log_prob_min_clamp=-5.0\n",
    ),
)
