"""temperature: one that only one side has, or that the loss does not look at."""

from __future__ import annotations

import numpy as np

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import batch_of, made_up
from gradalign.lint.subject import Subject
from gradalign.methods import get


def check(subject: Subject) -> Finding | None:
    """Look at the temperatures beside the loss."""
    student = _number(subject.beside("student_temperature"))
    teacher = _number(subject.beside("teacher_temperature"))
    own = float(getattr(subject.teacher, "temperature", 1.0))
    if student is not None or teacher is not None:
        of_student, of_teacher = student or own, teacher or 1.0
        if of_student != of_teacher:
            return _one_sided(subject, of_student, of_teacher)
    return _ignored(subject)


def _one_sided(subject: Subject, of_student: float, of_teacher: float) -> Finding | None:
    batch = made_up().batch
    rng = np.random.default_rng(0)
    student_NV = batch.log_p_NS / of_student
    method = subject.teacher
    found_NS = ascent(method, batch_of(student_NV, batch.log_q_NS / of_teacher, rng))
    both_NS = ascent(method, batch_of(student_NV, batch.log_q_NS / of_student, rng))
    if not np.any(both_NS):
        return None
    found = compare(found_NS, both_NS)
    agreed_NS = ascent(method, batch_of(student_NV, batch.log_p_NS / of_teacher, rng))
    left = float(np.linalg.norm(agreed_NS) / np.linalg.norm(both_NS))
    return Finding(
        "warning",
        f"The student's logits are divided by {of_student:g} and the teacher's by {of_teacher:g}: "
        "the student is drawn to a flatter or sharper copy of the teacher.",
        f"Cosine to the same loss with one temperature {found.cosine:+.2f}, {found.turned:.0%} of "
        "nodes turned round; where both models have the same logits the update is still "
        f"{left:.2g} times as long as that towards a teacher.",
        "Set both temperatures to the same value.",
        tuple(
            subject.key_of(role)
            for role in ("student_temperature", "teacher_temperature")
            if role in subject.trainer.beside
        ),
        {"cosine": found.cosine, "turned": found.turned, "at_agreement": left},
        Drawn(both_NS, found_NS, "one temperature", "two temperatures"),
    )


def _ignored(subject: Subject) -> Finding | None:
    value = _number(subject.beside("sampling_only_temperature"))
    key = "temperature"
    if value is None or value == 1.0 or not subject.sets(key):
        return None
    beta = subject.settings.get("beta", 0.5)
    meant = ascent(get(f"gkd:beta={beta},temperature={value}"))
    found = compare(subject.applied_NS, meant)
    return Finding(
        "note",
        f"temperature={value:g} is for sampling alone: the loss is taken at temperature 1.",
        f"Cosine to the divergence at that temperature {found.cosine:+.2f}.",
        "If softened distributions are meant, take TRL's DistillationTrainer or GOLDTrainer.",
        (key,),
        {"cosine": found.cosine},
        Drawn(meant, subject.applied_NS, f"temperature {value:g}", "temperature 1"),
    )


def _number(value: object) -> float | None:
    """Return a setting as a number; None where it is none, such as `${another}`."""
    try:
        return float(value) if value is not None else None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


RULE = Rule(
    name="temperature",
    title="a temperature on one side, or ignored",
    levels=("warning", "note"),
    source=(
        "verl at 1dda039b experimental/teacher_loop/teacher_manager.py:41 (teachers are read at "
        "1); miles rollout/on_policy_distillation.py:104; thunlp/OPD fsdp_workers.py:2249; ROLL "
        "distill_config.py:69; TRL 1.16 GKDConfig"
    ),
    check=check,
    example=Example(
        "verl",
        "run.sh",
        "python -m verl.trainer.main_ppo distillation.enabled=true \\\n"
        "  actor_rollout_ref.rollout.temperature=0.6 \\\n"
        "  distillation.distillation_loss.loss_mode=k1 \\\n"
        "  distillation.distillation_loss.use_policy_gradient=true \\\n"
        "  distillation.distillation_loss.use_task_rewards=false\n",
    ),
)
