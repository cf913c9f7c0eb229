"""What lint says on its made-up nodes, by autograd of the functions that trainers ship."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradalign.lint.nodes import KINDS, made_up
from tests.lint.linted import by_rule, linted, verl
from tests.methods.trainers_code import functions


class Nodes:
    """The made-up nodes, with a leaf for the student's logits."""

    def __init__(self):
        batch = made_up().batch
        self.z = torch.tensor(batch.log_p_NS, requires_grad=True)
        self.log_p = torch.log_softmax(self.z, -1)
        self.log_q = torch.tensor(batch.log_q_NS)
        self.p = self.log_p.detach().exp()

    def ascent(self, loss):
        (gradient,) = torch.autograd.grad(loss.sum(), self.z, retain_graph=True)
        return -gradient.numpy()

    def mean(self, per_token):
        """A loss of every token that may be drawn, averaged over the draw."""
        return self.ascent(self.p * per_token)


def cosine_N(one, other):
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.vecdot(one, other) / size


def test_verl_k1_differentiated_is_nothing(tmp_path):
    assert "zero-signal" in by_rule(verl(tmp_path, loss_mode="k1"))
    (penalty,) = functions("verl", "verl/trainer/ppo/core_algos.py", "kl_penalty_forward")
    nodes = Nodes()
    assert np.abs(nodes.mean(penalty(nodes.log_p, nodes.log_q, "k1"))).max() < 1e-12
    reward = -penalty(nodes.log_p, nodes.log_q, "k1").detach()
    assert np.abs(nodes.mean(-reward * nodes.log_p)).max() > 0.01


@pytest.mark.parametrize("top_k", [8, 64])
def test_verl_top_k_as_a_reward_is_nothing(monkeypatch, tmp_path, top_k):
    """The trainer's own sum over the top-k, taken as minus the advantage of the drawn token."""
    settings = {"loss_mode": "forward_kl_topk", "topk": top_k, "use_policy_gradient": True}
    assert "zero-signal" in by_rule(verl(tmp_path, **settings))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    _, loss_of = functions(
        "verl",
        "verl/trainer/distillation/fsdp/losses.py",
        "kl_divergence",
        "compute_forward_kl_topk",
        get_ulysses_sequence_parallel_world_size=lambda: 1,
    )
    nodes = Nodes()
    top = nodes.log_q.topk(top_k, dim=-1)
    nested = [
        torch.nested.nested_tensor([item], layout=torch.jagged)
        for item in (top.values, top.indices)
    ]
    options = SimpleNamespace(use_chunked_topk=False, log_prob_min_clamp=None)
    config = SimpleNamespace(distillation_loss=options)
    loss = loss_of(nodes.z[None], *nested, config, "thd")["distillation_losses"][0]
    advantage = -loss.clamp_min(0.0).detach()
    assert advantage.abs().max() > 0.1
    assert np.abs(nodes.mean(-advantage[:, None] * nodes.log_p)).max() < 1e-12


def test_verl_k3_and_torchrl_are_the_forward_divergence(tmp_path):
    nodes = Nodes()
    (penalty,) = functions("verl", "verl/trainer/ppo/core_algos.py", "kl_penalty_forward")
    path = "torchrl/objectives/llm/distillation.py"
    (estimate,) = functions("torchrl", path, "k3_kl_token_estimate")
    forward = nodes.ascent(nodes.log_q.exp() * (nodes.log_q - nodes.log_p))
    reverse = nodes.ascent(nodes.log_p.exp() * (nodes.log_p - nodes.log_q))
    k3 = nodes.mean(penalty(nodes.log_p, nodes.log_q, "k3"))
    torchrl = nodes.mean(estimate(nodes.log_q, nodes.log_p))
    found = by_rule(verl(tmp_path, loss_mode="k3"))["other-divergence"].finding.numbers
    far = made_up().kind_N == KINDS.index("far")
    telling = far | (made_up().kind_N == KINDS.index("peaked"))
    assert np.median(cosine_N(k3, forward)[telling]) == pytest.approx(found["alike"], abs=1e-6)
    assert np.median(cosine_N(torchrl, forward)[telling]) == pytest.approx(1.0, abs=1e-6)
    assert (cosine_N(k3, reverse) < 0.0).mean() == pytest.approx(found["turned"])
    text = '{"kl_direction": "reverse"}'
    assert by_rule(linted(tmp_path, text, "a.json"))["other-divergence"].finding.numbers[
        "turned"
    ] == pytest.approx(float((cosine_N(torchrl, reverse) < 0.0).mean()))
