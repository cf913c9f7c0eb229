"""other-top-k: the set of tokens is of the model whose tokens the divergence does not weigh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradalign.lint.evidence import ascent, compare
from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import made_up
from gradalign.lint.subject import Subject
from gradalign.methods import Method
from gradalign.methods.distributions import Side
from gradalign.methods.opd import OPD
from gradalign.methods.trainers.thunlp import ThunlpOPD
from gradalign.methods.trainers.trl import TRLSDPO

GAIN, MUCH = 0.05, 0.2
"""How much nearer the other model's set has to come to the whole divergence."""

STRATEGIES: dict[str, Side] = {"only_stu": "student", "only_tch": "teacher"}


def check(subject: Subject) -> Finding | None:
    """Take the same loss on the other model's top tokens, and see which is nearer to the whole."""
    method = subject.teacher
    own, top_k, swapped = _swapped(method)
    if swapped is None or subject.promise == method or not np.any(subject.applied_NS):
        return None
    here = compare(subject.applied_NS, subject.promised_NS).cosine
    there = compare(ascent(swapped), subject.promised_NS).cosine
    if not there > here + GAIN:
        return None
    other: Side = "teacher" if own == "student" else "student"
    nodes = made_up().batch.at(1.0)
    weight_NS = nodes.q_NS if other == "teacher" else nodes.p_NS
    mass = float(np.where(nodes.top(own, top_k), weight_NS, 0.0).sum(axis=1).min())
    return Finding(
        "warning" if there > here + MUCH else "note",
        f"The {top_k} tokens are the {own}'s, but the divergence weighs by the {other}: what the "
        f"{other} has beyond them does not count.",
        f"Cosine to {subject.promise.spec} {here:+.2f}, with the {other}'s tokens {there:+.2f}; on "
        f"one made-up node the {other} has only {mass:.0%} of its mass on the set.",
        f"Take the {other}'s top tokens, or the other direction of the divergence.",
        (
            "distillation_topk",
            "top_k_strategy",
            "use_teacher_server",
            "distillation_alpha",
            "alpha",
        ),
        {"cosine": here, "swapped": there, "least_mass": mass},
        Drawn(subject.promised_NS, subject.applied_NS, subject.promise.spec, method.spec),
    )


def _swapped(method: Method) -> tuple[Side, int, Method | None]:
    """Return whose top tokens a loss is taken on, how many, and the loss on the other model's."""
    if isinstance(method, TRLSDPO | OPD) and method.top_k:
        if method.support == "student":
            return "student", method.top_k, replace(method, support="teacher")
        if method.support == "teacher":
            return "teacher", method.top_k, replace(method, support="student")
    if isinstance(method, ThunlpOPD) and method.strategy in STRATEGIES:
        own = STRATEGIES[method.strategy]
        word = "only_tch" if own == "student" else "only_stu"
        return own, method.top_k, replace(method, strategy=word)
    return "student", 0, None


RULE = Rule(
    name="other-top-k",
    title="top-k of the other model than the divergence weighs",
    levels=("warning", "note"),
    source=(
        "TRL 1.16 sdpo and sdft loss_utils (the student's tokens, with a server the teacher's); "
        "thunlp/OPD issues 5, 15 and 17; ms-swift issue 10079"
    ),
    check=check,
    example=Example(
        "trl/sdft",
        "config.yaml",
        "distillation_mode: topk_logits\ndistillation_alpha: 0.0\ndistillation_topk: 20\n"
        "num_loss_tokens_to_skip: 0\n",
    ),
)
