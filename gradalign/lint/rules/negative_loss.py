"""negative-loss: the loss that is logged can fall below zero, without anything being wrong."""

from __future__ import annotations

import numpy as np

from gradalign.lint.findings import Drawn, Example, Finding, Rule
from gradalign.lint.nodes import made_up
from gradalign.lint.subject import Subject
from gradalign.methods.distributions import Floats
from gradalign.methods.gkd import OPSD


def check(subject: Subject) -> Finding | None:
    """Evaluate the loss at every made-up node."""
    method = subject.teacher
    if not isinstance(method, OPSD) or not method.clip:
        return None  # no other loss of the table falls below zero on average
    loss_N, free_N = _loss(method, method.clip), _loss(method, np.inf)
    if not (loss_N < 0.0).any():
        return None
    order_N = np.argsort(loss_N)[:6]
    share, least = float((loss_N < 0.0).mean()), float(loss_N.min())
    return Finding(
        "note",
        "The loss may be negative: what is summed is no divergence any more. That is no fault in "
        "itself, but zero is no floor to train towards.",
        f"It is negative on {share:.0%} of the made-up nodes, down to {least:.2f}.",
        "Judge the training by success, not by this loss; without the clip it is a divergence.",
        ("jsd_token_clip",),
        {"negative": share, "least": least},
        Drawn(
            free_N[order_N][None],
            loss_N[order_N][None],
            "the divergence",
            "the loss with its clip",
            tuple(map(str, order_N)),
            "made-up nodes",
        ),
    )


def _loss(method: OPSD, clip: float) -> Floats:
    """Return the clipped sum over the whole vocabulary at each node, [N]."""
    nodes = made_up().batch.at(method.temperature)
    beta = method.beta
    log_p_NS, log_q_NS = nodes.log_p_NS, nodes.log_q_NS
    if beta in (0.0, 1.0):
        sides = (nodes.q_NS, nodes.r_NS) if beta == 0.0 else (nodes.p_NS, -nodes.r_NS)
        summand_NS = sides[0] * sides[1]
    else:
        log_m_NS = np.logaddexp(np.log(beta) + log_q_NS, np.log1p(-beta) + log_p_NS)
        summand_NS = beta * nodes.q_NS * (log_q_NS - log_m_NS)
        summand_NS += (1.0 - beta) * nodes.p_NS * (log_p_NS - log_m_NS)
    return np.asarray(np.minimum(summand_NS, clip).sum(axis=1))


RULE = Rule(
    name="negative-loss",
    title="the loss may be negative",
    levels=("note",),
    source="siyan-zhao/OPSD issues 2 and 24, where it was filed as a fault",
    check=check,
    example=Example("opsd", "run.sh", "python opsd_train.py --beta 0 --jsd_token_clip 0.06\n"),
)
