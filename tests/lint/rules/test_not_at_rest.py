"""not-at-rest: the update where the teacher's logits are the student's."""

from __future__ import annotations

import numpy as np
import pytest

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, example, linted, verl


def test_the_cookbooks_cross_entropy_by_hand(tmp_path):
    hit = example(tmp_path, "not-at-rest")
    p, q = made_up().batch.p_NS, made_up().batch.q_NS

    def update(teacher):
        top = np.argsort(-teacher, axis=1)[:, :20]
        kept = np.zeros_like(teacher)
        np.put_along_axis(kept, top, np.take_along_axis(teacher, top, 1), 1)
        return kept / kept.sum(axis=1, keepdims=True) - p

    rest = np.linalg.norm(update(p)) / np.linalg.norm(update(q))
    assert hit.finding.numbers["at_agreement"] == pytest.approx(float(rest))
    assert "measured no loss" in hit.finding.text


def test_renormalised_or_with_a_tail_it_rests(tmp_path):
    for text in ("kd_trainer: true\nkd_normalize_topk: true\n", "kl_type: reverse\n"):
        assert "not-at-rest" not in by_rule(linted(tmp_path, text, "a.yaml"))
    assert "not-at-rest" not in by_rule(verl(tmp_path, loss_mode="forward_kl_topk_tail"))
    assert "not-at-rest" in by_rule(verl(tmp_path, loss_mode="forward_kl_topk", topk=8))
    plain = "kd_trainer: true\nkd_normalize_topk: false\n"
    assert "not-at-rest" in by_rule(linted(tmp_path, plain, "a.yaml"))
