"""group-normalisation: only beside a task reward, and only where it is on."""

from __future__ import annotations

import math

import pytest

from tests.lint.linted import by_rule, example, linted, verl


def test_the_weight_of_a_hard_question(tmp_path):
    numbers = example(tmp_path, "group-normalisation").finding.numbers
    assert numbers["weight"] == pytest.approx(0.5 / math.sqrt(63 / 64 / 64))
    assert 0.9 < numbers["cosine"] < 1.0


def test_where_it_counts(tmp_path):
    assert "group-normalisation" in by_rule(verl(tmp_path, loss_mode="k2", use_task_rewards=True))
    assert "group-normalisation" not in by_rule(verl(tmp_path, loss_mode="k2"))
    off = "algorithm.norm_adv_by_std_in_grpo=False"
    found = by_rule(verl(tmp_path, off, loss_mode="k2", use_task_rewards=True))
    assert "group-normalisation" not in found
    text = "swift rlhf --rlhf_type grpo --teacher_model T {}\n"
    assert "group-normalisation" not in by_rule(linted(tmp_path, text.format("")))
    assert "group-normalisation" in by_rule(
        linted(tmp_path, text.format("--reward_funcs accuracy"))
    )
