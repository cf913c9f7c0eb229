"""clamped-away: shares of nodes and of the update, against the loss without clamps."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.lint.nodes import made_up
from gradalign.methods import get
from tests.lint.linted import by_rule, example, verl


def test_the_example_by_hand(tmp_path):
    numbers = example(tmp_path, "clamped-away").finding.numbers
    batch = made_up().batch
    top = np.argsort(-batch.q_NS, axis=1)[:, :32]
    log_p = np.maximum(np.take_along_axis(batch.log_p_NS, top, 1), -5.0)
    log_q = np.maximum(np.take_along_axis(batch.log_q_NS, top, 1), -5.0)
    loss_N = (np.exp(log_q) * (log_q - log_p)).sum(axis=1)
    none_N = (np.take_along_axis(batch.log_p_NS, top, 1) < -5.0).all(axis=1)
    assert numbers["zero"] == pytest.approx(float(((loss_N < 0.0) | none_N).mean()))


def test_k3_stops_where_the_teacher_is_sure_of_something_else(tmp_path):
    found = by_rule(verl(tmp_path, loss_mode="k3"))["clamped-away"].finding
    assert "wrong +0.1" in found.evidence
    kept = made_up().batch.take(np.arange(32))  # near teachers: no token is clamped
    alike = [np.nan_to_num(get(spec).ascent(kept)) for spec in ("verl/k3", "gkd:beta=0")]
    assert np.allclose(*alike, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_mode": "k1", "use_policy_gradient": True, "loss_max_clamp": 10.0},
        {"loss_mode": "k2"},
        {"loss_mode": "forward_kl_topk_tail"},
    ],
)
def test_nothing_where_nothing_is_lost(tmp_path, settings):
    assert "clamped-away" not in by_rule(verl(tmp_path, **settings))
