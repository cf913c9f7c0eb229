"""zero-signal: averaged over what may be sampled, the teacher moves nothing."""

from __future__ import annotations

import numpy as np

from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import made_up
from gradalign.lint.subject import Subject

FIXES = {
    "miles": "Set --opd-log-prob-top-k 0, which weighs the sampled token's own log ratio.",
    "verl": "Set use_policy_gradient=true with loss_mode=k1, or false with a top-k loss.",
    "areal": "Set rl_loss_weight=0, which weighs the sampled token's log ratio, or patch the loss.",
}
"""By trainer; others are told in general."""

KEYS = (
    "opd_log_prob_top_k", "loss_mode", "use_policy_gradient", "rl_loss_weight",
    "distill_loss_weight", "opd_kl_coef", "teacher_kl_coef", "distillation_loss_coef",
    "distillation_weight",
)  # fmt: skip


def check(subject: Subject) -> Finding | None:
    """Compare the mean update with what was promised; and with the size of a single sample's."""
    if subject.coefficient == 0.0:
        return Finding(
            "warning",
            "The coefficient of the teacher's loss is 0: the teacher has no effect.",
            fix="Give the teacher's term a coefficient above 0, or leave the teacher out.",
            keys=KEYS,
        )
    promised = float(np.linalg.norm(_wanted(subject)))
    mean = float(np.linalg.norm(subject.applied_NS))
    if mean > 1e-9 * promised:
        return None
    spread = float(np.sqrt(subject.teacher.squared_deviation(made_up().batch).sum()))
    return Finding(
        "error",
        f"The teacher's term, {subject.teacher.spec}, is zero on average over the sampled token: "
        "the teacher has no effect, and single samples of it are noise.",
        f"On {made_up().batch.num_nodes} made-up nodes the mean update is 0; one sample's is "
        f"{spread / promised:.2g} times as long as the update of {subject.promise.spec}.",
        FIXES.get(subject.trainer.name, "Choose a loss that weighs each token by its own ratio."),
        KEYS,
        {"mean": 0.0, "sample": spread / promised},
        Drawn(_wanted(subject), subject.applied_NS, subject.promise.spec, subject.teacher.spec),
    )


def _wanted(subject: Subject) -> np.ndarray:
    """What a teacher's term should be: the promise, or the ideal gradient where it is zero too."""
    if np.linalg.norm(subject.promised_NS) > 0.0:
        return subject.promised_NS
    return made_up().ideal["teacher is right"]


RULE = Rule(
    name="zero-signal",
    title="the teacher's term is zero on average",
    levels=("error", "warning"),
    source=(
        "radixark/miles issues 2352, 2362 and pull request 3116; AReaL at cbff54d6, "
        "trainer/ppo/actor.py:654; verl 0.9.1 workers/config/distillation.py (k1 is refused "
        "without use_policy_gradient)"
    ),
    check=check,
    example=Example(
        "miles", "run.sh", "python train.py --use-opd --opd-kl-coef 1.0 --opd-log-prob-top-k 16\n"
    ),
)
