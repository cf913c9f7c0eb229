"""Made-up nodes, on which a loss shows where it points: no model is needed for that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from gradalign.methods import Continuations, NodeBatch, SpineView
from gradalign.methods.distributions import Floats, Ints

KINDS = ("near", "far", "peaked", "flat", "wrong")
"""Teachers: close to the student, far from it, both nearly certain, both undecided, and one that is
sure of a token that the student finds unlikely."""

EACH = 32
"""Nodes of each kind."""

VOCABULARY = 512
LENGTH = 1000
"""Tokens of the response that a node lies in the middle of."""

FORKS, ROLLOUTS = 8, 2
"""Tokens of a node that are followed by continuations, and continuations of each."""

VALUES = ("teacher is right", "teacher does not know", "teacher is wrong")
"""Chances of success after each token: as the teacher likes it, by chance, as it dislikes it."""


@dataclass(frozen=True, eq=False)
class MadeUp:
    """Nodes of every kind, and ideal gradients at them.

    Attributes:
        batch: the nodes, with responses and continuations.
        kind_N: place in `KINDS`, [N].
        ideal: the ideal gradient by name of `VALUES`, each [N, S].
    """

    batch: NodeBatch
    kind_N: Ints
    ideal: dict[str, Floats]


@cache
def made_up() -> MadeUp:
    """Return the nodes; the same ones every time."""
    rng = np.random.default_rng(20261128)
    sides = [_logits(kind, rng) for kind in KINDS]
    student_NV = np.concatenate([student for student, _ in sides])
    teacher_NV = np.concatenate([teacher for _, teacher in sides])
    batch = batch_of(student_NV, teacher_NV, rng)
    p_NS, r_NS = batch.p_NS, batch.at(1.0).r_NS
    values = {
        "teacher is right": 1.0 / (1.0 + np.exp(-r_NS)),
        "teacher does not know": rng.uniform(size=r_NS.shape),
        "teacher is wrong": 1.0 / (1.0 + np.exp(r_NS)),
    }
    ideal = {
        name: p_NS * (value_NS - np.vecdot(p_NS, value_NS)[:, None])
        for name, value_NS in values.items()
    }
    return MadeUp(batch, np.repeat(np.arange(len(KINDS)), EACH), ideal)


@cache
def agreed() -> NodeBatch:
    """Return the same students with themselves as teachers: there is nothing to learn."""
    batch = made_up().batch
    return batch_of(batch.log_p_NS, batch.log_p_NS, np.random.default_rng(0))


def batch_of(student_NV: Floats, teacher_NV: Floats, rng: np.random.Generator) -> NodeBatch:
    """Return nodes with a drawn token, a response and continuations each.

    Args:
        student_NV: logits, [N, V].
        teacher_NV: logits, [N, V].
        rng: of draws, rewards and what follows.
    """
    num_nodes = student_NV.shape[0]
    drawn_N = (student_NV + rng.gumbel(size=student_NV.shape)).argmax(axis=1)
    first_NF = np.argsort(-student_NV, axis=1)[:, :FORKS]
    node_K = np.repeat(np.arange(num_nodes), FORKS * ROLLOUTS)
    slot_K = np.repeat(first_NF.reshape(-1), ROLLOUTS)
    later = 4
    start_K = np.arange(node_K.size) * later
    continuations = Continuations(
        node_K=node_K,
        slot_K=slot_K,
        reward_K=rng.integers(2, size=node_K.size).astype(np.float64),
        half_K=np.arange(node_K.size) % 2,
        start_K=start_K,
        stop_K=start_K + later,
        log_ratio_T=rng.normal(scale=0.3, size=node_K.size * later),
    )
    begin_N = np.arange(num_nodes) * LENGTH
    spines = SpineView(
        begin_N=begin_N,
        at_N=begin_N + LENGTH // 2,
        end_N=begin_N + LENGTH,
        reward_N=np.asarray(rng.integers(2, size=num_nodes), dtype=np.float64),
        group_mean_N=np.full(num_nodes, 0.5),
        log_ratio_T=rng.normal(scale=0.3, size=num_nodes * LENGTH),
    )
    return NodeBatch.from_logits(
        student_NV, teacher_NV, drawn_N, continuations=continuations, spines=spines
    )


def _logits(kind: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return student and teacher logits of one kind, each [N, V]."""
    shape = (EACH, VOCABULARY)
    spread, apart = {
        "near": (3.0, 0.3),
        "far": (3.0, 2.0),
        "peaked": (6.0, 1.0),
        "flat": (0.3, 0.3),
        "wrong": (3.0, 0.5),
    }[kind]
    student_NV = rng.normal(scale=spread, size=shape)
    teacher_NV = student_NV + rng.normal(scale=apart, size=shape)
    if kind == "wrong":
        # The 40th likeliest token of the student's gets nearly all of the teacher's mass.
        rows = np.arange(EACH)
        unlikely_N = np.argsort(-student_NV, axis=1)[:, 40]
        teacher_NV[rows, unlikely_N] = teacher_NV.max(axis=1) + 3.0
    return student_NV, teacher_NV
