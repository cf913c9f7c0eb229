"""Do student and teacher end responses alike, and how much of a direction is not looked at?

A base model ends with another token than the chat model made of it. Such a teacher gives the
student's end token next to no mass, and what it would rather say there need not be a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradalign.estimates import Arm
from gradalign.stages.base import Run, teacher_file

NEXT_TO_NOTHING = 1e-4
"""Probability below which a teacher does not end where the student does."""


def end_warning(
    label: str, own: Sequence[int], stops: Sequence[int], texts: Mapping[int, str]
) -> list[str]:
    """Say that a teacher ends its responses with none of the tokens that end the student's.

    Args:
        label: the teacher.
        own: its own end tokens.
        stops: tokens that end the student's responses.
        texts: the text of each.
    """
    if not own or set(own) & set(stops):
        return []

    def named(ids: Sequence[int]) -> str:
        return " or ".join(f"{texts.get(token, '')!r} (id {token})" for token in ids)

    return [
        f"teacher {label} ends its responses with {named(own)}, the student with {named(stops)}: "
        "where the student ends, this teacher does not say what it means by its own end."
    ]


def end_figures(run: Run) -> dict[str, dict[str, float]]:
    """Compare both models where responses ended with an end token, by teacher.

    Returns:
        Of each teacher that read such a response: the number of `ends`, on how many of them it
        gives the drawn token less than `NEXT_TO_NOTHING` (`missed`), the student's mean
        probability of it (`student`), and the teacher's largest on those (`teacher`).
    """
    found = {}
    for teacher in run.read_teachers:
        p, q = [], []
        for shard in run.shards():
            spines = run.folder.read_table("spines", shard).select(["spine_id", "finish_reason"])
            ended = {
                str(spine_id)
                for spine_id, reason in zip(*(spines[n].to_pylist() for n in (0, 1)), strict=True)
                if reason == "stop"
            }
            table = run.folder.read_table("tokens", teacher_file(shard, teacher.label))
            names = np.array(table["spine_id"].to_pylist(), dtype=object)
            if not len(names):
                continue
            last = np.flatnonzero(np.r_[names[1:] != names[:-1], True])
            last = last[[str(name) in ended for name in names[last]]]
            p.append(np.exp(table["student_logprob"].to_numpy().astype(np.float64)[last]))
            q.append(np.exp(table["teacher_logprob"].to_numpy().astype(np.float64)[last]))
        p_E, q_E = np.concatenate(p or [[]]), np.concatenate(q or [[]])
        if not len(p_E):
            continue
        missed_E = q_E < NEXT_TO_NOTHING
        found[teacher.label] = {
            "ends": len(p_E),
            "missed": int(missed_E.sum()),
            "student": float(p_E.mean()),
            "teacher": float(q_E[missed_E].max(initial=0.0)),
        }
    return found


def outside_figures(run: Run) -> dict[str, dict[str, float]]:
    """Return the share of each direction's |m|^2 outside the candidates, by teacher and method.

    Both sums are over all positions, weighted by the nodes' inclusion probabilities. Methods
    that look at no teacher are left out, and directions of length 0.
    """
    sums: dict[Arm, Any] = {}
    for shard in run.shards():
        table = run.folder.read_table("alignment", shard)
        names = zip(table["teacher"].to_pylist(), table["method"].to_pylist(), strict=True)
        arms = map(Arm._make, names)
        total_N = table["method_norm2"].to_numpy(zero_copy_only=False)
        inside_N = total_N * table["norm_on_support"].to_numpy(zero_copy_only=False)
        weight_N = table["weight"].to_numpy(zero_copy_only=False)
        for arm, total, inside, weight in zip(arms, total_N, inside_N, weight_N, strict=True):
            if arm.teacher and np.isfinite(inside):
                pair = sums.setdefault(arm, np.zeros(2))
                pair += weight * np.array([inside, total])
    shares: dict[str, dict[str, float]] = {}
    for (teacher, method), (inside, total) in sums.items():
        if total > 0:
            shares.setdefault(teacher, {})[method] = float(1.0 - inside / total)
    return shares
