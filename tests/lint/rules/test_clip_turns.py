"""clip-turns: nodes turned round, by autograd of the clipped sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, example, linted


def update(clip):
    """Autograd of OPSD's loss at temperature 1.1, every token's part of it clipped."""
    batch = made_up().batch
    z = torch.tensor(batch.log_p_NS, requires_grad=True)
    log_p = torch.log_softmax(z / 1.1, -1)
    log_q = torch.log_softmax(torch.tensor(batch.log_q_NS) / 1.1, -1)
    summand = log_q.exp() * (log_q - log_p)
    loss = summand.clamp(max=clip).sum() if clip else summand.sum()
    return -torch.autograd.grad(loss, z)[0].numpy()


def test_as_many_nodes_turn_as_by_autograd(tmp_path):
    numbers = example(tmp_path, "clip-turns").finding.numbers
    clipped, whole = update(0.05), update(0.0)
    dot_N = np.vecdot(clipped, whole)
    assert numbers["turned"] == pytest.approx(float((dot_N < 0.0).mean()))
    cosine = dot_N.sum() / np.linalg.norm(clipped) / np.linalg.norm(whole)
    assert numbers["cosine"] == pytest.approx(float(cosine))
    assert numbers["turned"] > 0.2


def test_both_sides_are_told(tmp_path):
    text = example(tmp_path, "clip-turns").finding.text
    assert "no mistake" in text
    assert ".569" in text


@pytest.mark.parametrize("clip", ["0", "null", "100"])
def test_a_clip_that_does_nothing(tmp_path, clip):
    text = f"python opsd_train.py --beta 0 --jsd_token_clip {clip} --fixed_teacher\n"
    assert "clip-turns" not in by_rule(linted(tmp_path, text))
