"""other-divergence: k3 differentiated is the forward divergence, whatever it is called."""

from __future__ import annotations

import pytest

from tests.lint.linted import by_rule, example, linted, verl


def test_verl_k3(tmp_path):
    found = example(tmp_path, "other-divergence").finding
    assert found.numbers["is"] == "gkd:beta=0"
    assert found.numbers["alike"] > 0.999
    assert found.numbers["cosine"] < 0.9
    assert "reverse KL(P||Q)" in found.text


@pytest.mark.parametrize("mode", ["k2", "k3"])
@pytest.mark.parametrize("reward", [True, False])
def test_only_k3_differentiated(tmp_path, mode, reward):
    found = by_rule(verl(tmp_path, loss_mode=mode, use_policy_gradient=reward))
    assert ("other-divergence" in found) == (mode == "k3" and not reward)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_torchrl(tmp_path, direction):
    text = f'{{"kl_direction": "{direction}", "normalize_by_seq_length": false}}'
    found = by_rule(linted(tmp_path, text, "a.json"))
    assert ("other-divergence" in found) == (direction == "reverse")
