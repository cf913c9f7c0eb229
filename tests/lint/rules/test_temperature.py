"""temperature: on one side, on the other, or for sampling alone."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, example, linted, verl


def test_one_side_by_hand(tmp_path):
    numbers = example(tmp_path, "temperature").finding.numbers
    batch = made_up().batch

    def softmax(logits):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    p = softmax(batch.log_p_NS / 0.6)

    def update(q):
        gap = np.log(q) - np.log(p)
        return p * (gap - (p * gap).sum(axis=1, keepdims=True))

    one, both = update(batch.q_NS), update(softmax(batch.log_q_NS / 0.6))
    cosine = (one * both).sum() / np.linalg.norm(one) / np.linalg.norm(both)
    assert numbers["cosine"] == pytest.approx(float(cosine), abs=1e-6)
    rest = np.linalg.norm(update(batch.p_NS)) / np.linalg.norm(both)
    assert numbers["at_agreement"] == pytest.approx(float(rest), abs=1e-6)


def test_at_one_there_is_nothing(tmp_path):
    settings = {"loss_mode": "k1", "use_policy_gradient": True}
    for extra in ((), ("actor_rollout_ref.rollout.temperature=1.0",)):
        assert "temperature" not in by_rule(verl(tmp_path, *extra, **settings))
    unknown = "actor_rollout_ref.rollout.temperature=${T}"
    assert "temperature" not in by_rule(verl(tmp_path, unknown, **settings))


def test_that_of_the_teacher_alone(tmp_path):
    text = "logits_topk: 64\nkd_temperature: 2\nteacher_temperature: {}\n"
    one = by_rule(linted(tmp_path, text.format(1), "a.yaml"))["temperature"]
    assert (one.level, one.line) == ("warning", 3)
    assert "temperature" not in by_rule(linted(tmp_path, text.format(2), "a.yaml"))


def test_trl_gkd_samples_with_it_and_nothing_else(tmp_path):
    text = "python examples/scripts/gkd.py --beta 0.5 --temperature {}\n"
    assert by_rule(linted(tmp_path, text.format(0.5)))["temperature"].level == "note"
    assert "temperature" not in by_rule(linted(tmp_path, text.format(1.0)))
