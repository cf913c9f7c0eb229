"""zero-signal against autograd of what trainers do, and at coefficients of 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.lint.nodes import made_up
from tests.lint.linted import by_rule, example, linted, verl


def mean_update(weigh):
    """Autograd's mean over tokens y of a loss that is `weigh(log_p, log_q)` at y, at every node."""
    batch = made_up().batch
    z = torch.tensor(batch.log_p_NS, requires_grad=True)
    log_p, log_q = torch.log_softmax(z, -1), torch.tensor(batch.log_q_NS)
    loss = (log_p.detach().exp() * weigh(log_p, log_q)).sum()
    return -torch.autograd.grad(loss, z)[0].numpy()


def miles(log_p, log_q):
    """The sum over the student's top 16 is taken off the advantage of whatever was sampled."""
    top = log_p.detach().topk(16, dim=-1).indices
    weight = torch.softmax(log_p.detach().gather(-1, top), -1)
    gap = (log_p - log_q).detach().gather(-1, top)
    return (weight * gap).sum(-1, keepdim=True) * log_p


def areal(log_p, log_q):
    """The joint loss: log P - log Q at the sampled token, differentiated."""
    return log_p - log_q


@pytest.mark.parametrize("trainer", [miles, areal])
def test_nothing_is_left_on_average(trainer):
    assert np.abs(mean_update(trainer)).max() < 1e-12
    sound = mean_update(lambda log_p, log_q: (log_p - log_q).detach() * log_p)
    assert np.linalg.norm(sound, axis=1).min() > 1e-3


def test_miles_example_and_its_fix(tmp_path):
    hit = example(tmp_path, "zero-signal")
    assert hit.level == "error"
    assert hit.finding.numbers["sample"] > 1.0
    assert "--opd-log-prob-top-k 0" in hit.finding.fix
    fixed = "python miles/train.py --use-opd --opd-log-prob-top-k 0\n"
    assert "zero-signal" not in by_rule(linted(tmp_path, fixed))


def test_areal(tmp_path):
    joint = "teacher:\n  rl_loss_weight: 1.0\n  distill_loss_weight: 5e-3\n"
    assert by_rule(linted(tmp_path, joint, "a.yaml"))["zero-signal"].line == 2
    alone = joint.replace("1.0", "0")
    assert "zero-signal" not in by_rule(linted(tmp_path, alone, "a.yaml"))


@pytest.mark.parametrize(
    ("settings", "zero"),
    [
        ({"loss_mode": "k1"}, True),
        ({"loss_mode": "k1", "use_policy_gradient": True}, False),
        ({"loss_mode": "k2"}, False),
        ({"loss_mode": "forward_kl_topk", "use_policy_gradient": True}, True),
        ({"loss_mode": "forward_kl_topk"}, False),
    ],
)
def test_verl(tmp_path, settings, zero):
    assert ("zero-signal" in by_rule(verl(tmp_path, **settings))) == zero


def test_a_coefficient_of_nothing(tmp_path):
    text = "python slime/train.py --use-opd --opd-kl-coef 0.0\n"
    hit = by_rule(linted(tmp_path, text))["zero-signal"]
    assert (hit.level, hit.line) == ("warning", 1)
