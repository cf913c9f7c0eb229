"""Directions against autograd of the trainers' own functions, at the versions of `PINS`.

Functions that cast to float32 are made to keep float64. Without that they agree to 1e-4:
tinker-cookbook's weights of the teacher are float32 in the datum itself.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradalign.methods import NodeBatch, SpineView, get
from tests.methods.made_up import KINDS, error, logits
from tests.methods.trainers_code import PINS, functions

LIMIT, CAST_LIMIT = 1e-6, 1e-4


class World:
    """64 nodes of 200 tokens, with a leaf for the student's logits."""

    def __init__(self, kind, temperature=1.0):
        student, teacher, self.sampled = logits(kind)
        self.batch = NodeBatch.from_logits(student, teacher, self.sampled)
        self.z = torch.tensor(student, requires_grad=True)
        self.log_p = torch.log_softmax(self.z / temperature, -1)
        self.log_q = torch.log_softmax(torch.tensor(teacher) / temperature, -1)
        self.p = self.log_p.detach().exp()
        self.teacher = torch.tensor(teacher)
        self.y = torch.tensor(self.sampled)[:, None]

    def ascent(self, loss):
        (gradient,) = torch.autograd.grad(loss.sum(), self.z, retain_graph=True)
        return -gradient.numpy()

    def check_sampled(self, spec, per_token, limit=LIMIT, batch=None):
        """A loss of every token that may be drawn, [nodes, vocab]: single and on average."""
        method, batch = get(spec), batch or self.batch
        single = method.direction(batch, "sampled")
        fine = single.reason_N == ""
        assert fine.any()
        wanted = self.ascent(per_token.gather(-1, self.y))
        assert error(single.ascent_NS[fine], wanted[fine]) < limit
        mean = self.ascent(self.p * per_token)
        expected = method.direction(batch)
        fine = expected.reason_N == ""
        assert np.abs(mean[~fine]).max(initial=0.0) < 1e-9
        if fine.any():
            assert error(expected.ascent_NS[fine], mean[fine]) < limit


def test_the_versions_that_were_compared():
    assert PINS == {
        "verl": "0.9.1",
        "tinker-cookbook": "0.6.1",
        "ms-swift": "4.6.0",
        "skyrl": "0.3.0",
        "axolotl": "0.19.0",
        "torchrl": "0.14.1",
    }
    for name in ("swift/sdar", "swift/rlsd"):
        assert f"ms-swift {PINS['ms-swift']}" in get(name).source
    assert f"tinker-cookbook {PINS['tinker-cookbook']}" in get("tinker/sdft").source
    assert f"TorchRL {PINS['torchrl']}" in get("torchrl/distillation").source


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs"])
def test_verl_and_skyrl_estimators(kind, name):
    (verl,) = functions("verl", "verl/trainer/ppo/core_algos.py", "kl_penalty_forward")
    path = "skyrl/backends/skyrl_train/utils/ppo_utils.py"
    (skyrl,) = functions("skyrl", path, "compute_approx_kl")
    world = World(kind)
    for losses in (
        verl(world.log_p, world.log_q, name),
        skyrl(world.log_p, world.log_q, kl_estimator_type=name),
    ):
        world.check_sampled(f"verl/{name}", losses)
        world.check_sampled(f"verl/{name}:mode=pg", losses.detach() * world.log_p)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 32])
@pytest.mark.parametrize("least", [None, -10.0])
def test_verl_forward_kl_topk(monkeypatch, kind, top_k, least):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    _, loss_of = functions(
        "verl",
        "verl/trainer/distillation/fsdp/losses.py",
        "kl_divergence",
        "compute_forward_kl_topk",
        get_ulysses_sequence_parallel_world_size=lambda: 1,
    )
    world = World(kind)
    top = world.log_q.topk(top_k, dim=-1)
    nested = [
        torch.nested.nested_tensor([item], layout=torch.jagged)
        for item in (top.values, top.indices)
    ]
    options = SimpleNamespace(use_chunked_topk=False, log_prob_min_clamp=least)
    config = SimpleNamespace(distillation_loss=options)
    found = loss_of(world.z[None], *nested, config, "thd")["distillation_losses"][0]
    wanted = world.ascent(found.clamp_min(0.0))  # as losses.py does after it
    least = float("-inf") if least is None else least
    method = get(f"verl/forward_kl_topk:top_k={top_k},log_prob_min={least}")
    direction = method.direction(world.batch)
    fine = direction.reason_N == ""
    assert fine.any()
    assert error(direction.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-12
    # As a reward it is one number for whatever was drawn, which losses.py clamps too.
    reward = found.clamp_min(0.0).clamp(max=0.3).detach()[:, None] * world.log_p
    spec = f"verl/topk_reward:top_k={top_k},log_prob_min={least},max_clamp=0.3"
    world.check_sampled(spec, reward)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_swift_sdar(kind, beta):
    _, loss_of = functions(
        "ms-swift", "swift/rl_core/advantage.py", "_sdar_agg_loss", "compute_sdar_loss"
    )
    world, method = World(kind), get(f"swift/sdar:beta={beta}")
    nodes = len(world.p)
    # A mask that is P: the mean over tokens is then that over what may be drawn.
    mean = loss_of(world.log_p, world.log_q, world.p, beta)[0] * nodes
    assert error(method.ascent(world.batch), world.ascent(mean)) < LIMIT
    picked = [item.gather(-1, world.y) for item in (world.log_p, world.log_q)]
    wanted = world.ascent(loss_of(*picked, torch.ones_like(picked[0]), beta)[0] * nodes)
    single = method.direction(world.batch, "sampled")
    fine = single.reason_N == ""
    assert fine.any()
    assert error(single.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-11


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_swift_rlsd(kind, negative_only, mix):
    (reweigh,) = functions("ms-swift", "swift/rl_core/advantage.py", "apply_rlsd_reweight")
    world = World(kind)
    rng = np.random.default_rng(0)
    reward, base = rng.integers(0, 2, size=64).astype(float), rng.uniform(0.2, 0.8, size=64)
    own = (world.batch.log_q_NS - world.batch.log_p_NS)[np.arange(64), world.sampled]
    rows = np.arange(64)
    spines = SpineView(rows, rows, rows + 1, reward, base, own)
    picked = [item.gather(-1, world.y).detach() for item in (world.log_q, world.log_p)]
    advantage = reweigh(
        torch.tensor(reward - base),
        torch.ones_like(picked[0]),
        *picked,
        lam=mix,
        clip_range=0.2,
        negative_only=negative_only,
    )
    loss = -advantage.detach() * world.log_p.gather(-1, world.y)
    batch = NodeBatch.from_logits(world.z.detach(), world.teacher, world.sampled, spines=spines)
    method = get(f"swift/rlsd:mix={mix},negative_only={negative_only}")
    assert error(method.ascent(batch, "sampled"), world.ascent(loss)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.9, 1.7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [0, 20])
def test_swift_gkd(kind, temperature, beta, top_k):
    *_, loss_of = functions(
        "ms-swift",
        "swift/rlhf_trainers/gkd_loss.py",
        "default_log_softmax",
        "default_kl_div",
        "jsd_loss",
    )
    world = World(kind)
    left, right = world.z, world.teacher
    spec = f"gkd:beta={beta},temperature={temperature}"
    if top_k:
        index = right.topk(top_k, dim=-1).indices
        left, right = left.gather(-1, index), torch.log_softmax(right, -1).gather(-1, index)
        spec = f"opsd:beta={beta},clip=0,temperature={temperature},top_k={top_k}"
    loss = loss_of(left / temperature, right / temperature, beta)
    assert error(get(spec).ascent(world.batch), world.ascent(loss)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [5, 20])
def test_axolotl(monkeypatch, kind, top_k):
    """Two losses: one renormalises the student on the teacher's top-k, one does not."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    path = "axolotl/integrations/kd"
    (plain,) = functions("axolotl", f"{path}/topk_logprob/forward_kl.py", "loss")
    (normalize,) = functions("axolotl", f"{path}/utils.py", "normalize_logprobs")
    (liger,) = functions(
        "axolotl",
        f"{path}/kernels/liger.py",
        "LigerFusedLinearKLTopKLogprobFunction.distillation_loss_fn",
        normalize_logprobs=normalize,
    )
    world = World(kind)
    top = world.log_q.topk(top_k, dim=-1)
    teacher = torch.log_softmax(top.values, -1)
    mask = torch.ones_like(top.indices)
    loss = plain(world.z[None], top.indices[None], teacher[None], mask[None], num_items_in_batch=1)
    found = get(f"tinker/sdft:top_k={top_k},skip_first=0").ascent(world.batch)
    assert error(found, world.ascent(loss)) < LIMIT
    for beta in (0.0, 0.5, 1.0):
        loss = liger(world.z, top.indices, teacher, mask, beta=beta, normalize_topk=True)
        spec = f"opsd:beta={beta},clip=0,temperature=1,top_k={top_k}"
        assert error(get(spec).ascent(world.batch), world.ascent(loss)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_torchrl(kind, direction):
    path = "torchrl/objectives/llm/distillation.py"
    (estimate,) = functions("torchrl", path, "k3_kl_token_estimate")
    world = World(kind)
    sides = (world.log_q, world.log_p) if direction == "reverse" else (world.log_p, world.log_q)
    spec = f"torchrl/distillation:kl_direction={direction},per=token"
    world.check_sampled(spec, estimate(*sides))
    if direction == "reverse" and kind != "far":
        assert error(get(spec).ascent(world.batch), get("gkd:beta=0").ascent(world.batch)) < LIMIT


def test_tinker_discounted_kl():
    """kl_discount_factor makes minillm's undiscounted own term and discounted future."""
    path = "tinker_cookbook/rl/metrics.py"
    (discounted,) = functions("tinker-cookbook", path, "discounted_future_sum_vectorized")
    world = World("far")
    own = (world.log_q - world.log_p).detach().gather(-1, world.y)[:, 0]
    rows = np.arange(64)
    begin = rows // 16 * 16
    zero = np.zeros(64)
    spines = SpineView(begin, rows, begin + 16, zero, zero, own.numpy())
    batch = NodeBatch.from_logits(world.z.detach(), world.teacher, world.sampled, spines=spines)
    for gamma in (0.5, 0.99):
        advantage = torch.cat([discounted(part, gamma) for part in own.reshape(4, 16)])
        loss = -advantage * world.log_p.gather(-1, world.y)[:, 0]
        method = get(f"minillm:gamma={gamma},single_step=false")
        assert error(method.ascent(batch, "sampled"), world.ascent(loss)) < LIMIT


class Array:
    """What tinker's TensorData is to the cookbook."""

    def __init__(self, tensor):
        self.tensor, self.data = tensor, tensor.tolist()

    def to_torch(self):
        return self.tensor


def test_tinker_cross_entropy():
    """The cookbook's own datums, from a sampling client that returns what the service would."""
    path = "tinker_cookbook/distillation/sdft.py"
    top_k, vocab, length = 20, 200, 64
    world = World("far")
    top = world.log_q.topk(top_k, dim=-1)
    rows = [
        list(zip(top.indices[t].tolist(), top.values[t].tolist(), strict=True)) for t in range(64)
    ]

    class Prompt:
        def __init__(self, tokens):
            self.tokens, self.length = tokens, len(tokens)

        def append_int(self, token):
            return Prompt([*self.tokens, token])

        def to_ints(self):
            return self.tokens

    class Client:
        def sample(self, **asked):
            assert asked["topk_prompt_logprobs"] == top_k

            async def answer():
                return SimpleNamespace(topk_prompt_logprobs=[None, *rows])

            return SimpleNamespace(coroutine=answer)

    tokens = world.sampled.tolist()
    datum = SimpleNamespace(
        model_input=Prompt([0, *tokens[:-1]]),
        loss_fn_inputs={
            "mask": Array(torch.ones(length)),
            "target_tokens": Array(torch.tensor(tokens)),
        },
    )
    tinker = SimpleNamespace(
        SamplingParams=lambda **_: None,
        Datum=lambda **parts: SimpleNamespace(**parts),
        TensorData=SimpleNamespace(from_torch=Array),
    )
    *_, build = functions(
        "tinker-cookbook",
        path,
        "_extract_completion_tokens",
        "_build_teacher_forced_sequence",
        "_completion_positions",
        "build_topk_distillation_datums",
        tinker=tinker,
        asyncio=asyncio,
        cast=lambda _, value: value,
    )
    (made,), _ = asyncio.run(
        build([datum], [{"group_idx": 0}], Client(), [Prompt([1])], topk=top_k, vocab_size=vocab)
    )
    target = made.loss_fn_inputs["target_tokens"].to_torch()
    weight = made.loss_fn_inputs["weights"].to_torch().double()
    loss = -(weight * world.log_p.gather(-1, target))
    wanted = world.ascent(loss)
    zero = np.zeros(length)
    at = np.arange(length)
    spines = SpineView(np.zeros(length, int), at, np.full(length, length), zero, zero, zero)
    batch = NodeBatch.from_logits(world.z.detach(), world.teacher, world.sampled, spines=spines)
    found = get(f"tinker/sdft:top_k={top_k}").direction(batch)
    skipped = found.reason_N != ""
    assert skipped.tolist() == [True] * 3 + [False] * (length - 3)
    assert (wanted[skipped] == 0.0).all()
    assert error(found.ascent_NS[~skipped], wanted[~skipped]) < CAST_LIMIT
