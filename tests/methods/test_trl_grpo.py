"""Dr. GRPO against TRL's own loss: single responses, and every group enumerated."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from packaging.version import Version

from gradalign.methods import Continuations, NodeBatch, SpineView, get
from tests.methods.made_up import KINDS, error, logits
from tests.requires import needs, require

needs("trl")
trl_version = version("trl")

CHECKED = Version("1.16") <= Version(trl_version) < Version("2")
pytestmark = [
    pytest.mark.skipif(
        not (CHECKED or os.environ.get("GRADALIGN_REQUIRE_ALL") == "1"),
        reason=f"written for TRL 1.16, found {trl_version}",
    ),
    pytest.mark.filterwarnings("ignore"),
]
LIMIT = 1e-6


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def ascent_of(loss, tensor):
    loss.backward()
    return -tensor.grad.numpy()


def grpo_trainer(z, tokens):
    trainer = object.__new__(require("trl.trainer.grpo_trainer").GRPOTrainer)

    def log_probs(*_, **__):
        table = torch.log_softmax(z, -1)
        picked = table.gather(-1, tokens[..., None])[..., 0]
        return picked, torch.zeros_like(picked), None

    settings = {
        "_get_per_token_logps_and_entropies": log_probs,
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "loss_type": "dr_grpo",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "args": SimpleNamespace(delta=None),
        "use_vllm": False,
        "model": SimpleNamespace(training=True),
        "max_completion_length": tokens.shape[1],
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
    }
    vars(trainer).update(settings)
    trainer.accelerator = SimpleNamespace(
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    return trainer


def grpo_loss(z, tokens, advantages):
    ones = torch.ones_like(tokens)
    inputs = {
        "prompt_ids": ones[:, :1],
        "prompt_mask": ones[:, :1],
        "completion_ids": tokens,
        "completion_mask": ones,
        "advantages": advantages,
    }
    return grpo_trainer(z, tokens)._compute_loss(None, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_dr_grpo_sampled(kind):
    """Eight responses of eight tokens; every token is a node."""
    student, teacher, sampled = logits(kind)
    reward = np.random.default_rng(5).integers(0, 2, size=8).astype(np.float64)
    z = leaf(student)
    tokens = torch.tensor(sampled).reshape(8, 8)
    loss = grpo_loss(z.reshape(8, 8, -1), tokens, torch.tensor(reward - reward.mean()))
    wanted = ascent_of(loss * 64, z)
    rows = np.arange(64)
    spines = SpineView(
        begin_N=rows // 8 * 8,
        at_N=rows,
        end_N=rows // 8 * 8 + 8,
        reward_N=reward[rows // 8],
        group_mean_N=np.full(64, reward.mean()),
        log_ratio_T=np.zeros(64),
    )
    batch = NodeBatch.from_logits(student, teacher, sampled, spines=spines)
    assert error(get("dr_grpo:group=8").ascent(batch, "sampled"), wanted) < LIMIT


def test_dr_grpo_expected_and_variance_by_enumeration():
    """Every group of three one-token responses, with rewards fixed by the token."""
    rng = np.random.default_rng(2)
    student, reward, group = rng.normal(size=4), np.array([1.0, 0.0, 0.0, 1.0]), 3
    p = np.exp(student) / np.exp(student).sum()
    mean, square = np.zeros(4), 0.0
    for choice in itertools.product(range(4), repeat=group):
        z = leaf(np.broadcast_to(student, (group, 1, 4)).copy())
        got = torch.tensor(reward[list(choice)])
        loss = grpo_loss(z, torch.tensor(choice)[:, None], got - got.mean())
        # One response's share: the loss is the mean over the group.
        each = ascent_of(loss * group, z)[:, 0]
        weight = p[list(choice)].prod()
        mean += weight * each.mean(axis=0)
        square += weight * (each**2).sum(axis=1).mean()
    value = float(p @ reward)
    rolled = Continuations(
        node_K=np.zeros(4, dtype=np.int64),
        slot_K=np.arange(4),
        reward_K=reward,
        half_K=np.zeros(4, dtype=np.int64),
        start_K=np.zeros(4, dtype=np.int64),
        stop_K=np.zeros(4, dtype=np.int64),
        log_ratio_T=np.zeros(0),
    )
    nothing = np.zeros(1, dtype=np.int64)
    spines = SpineView(
        begin_N=nothing,
        at_N=nothing,
        end_N=nothing + 1,
        reward_N=np.zeros(1),
        group_mean_N=np.array([value]),
        log_ratio_T=np.zeros(1),
    )
    batch = NodeBatch.from_logits(student[None], student[None], continuations=rolled, spines=spines)
    method = get(f"dr_grpo:group={group}")
    np.testing.assert_allclose(method.ascent(batch)[0], mean, atol=1e-12)
    np.testing.assert_allclose(method.ascent(batch)[0], 2 / 3 * p * (reward - value), atol=1e-12)
    ratio = square / (mean**2).sum() - 1.0
    np.testing.assert_allclose(method.variance_ratio(batch), ratio, rtol=1e-9)
