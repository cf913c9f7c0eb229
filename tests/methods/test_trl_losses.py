"""Directions against autograd of TRL's own loss functions, in float64."""

from __future__ import annotations

import os
from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from packaging.version import Version

from gradalign.methods import NodeBatch, SpineView, get
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
TEMPERATURES = (1.0, 1.7)
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
LIMIT = 1e-6


def leaf(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def ascent_of(loss, tensor):
    loss.backward()
    return -tensor.grad.numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", BETAS)
def test_gkd(kind, temperature, beta):
    trainer = require("trl.experimental.gkd.gkd_trainer").GKDTrainer
    student, teacher, _ = logits(kind)
    z = leaf(student)
    loss = trainer.generalized_jsd_loss(
        z[None], torch.tensor(teacher)[None], beta=beta, temperature=temperature, reduction="sum"
    )
    wanted = ascent_of(loss, z)
    batch = NodeBatch.from_logits(student, teacher)
    method = get(f"gkd:beta={beta},temperature={temperature}")
    assert error(method.ascent(batch), wanted) < LIMIT
    if temperature == 1.0:
        assert error(get(f"trl/gkd:beta={beta}").ascent(batch), wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", BETAS)
def test_distillation(monkeypatch, kind, temperature, beta):
    """The trainer's kernel runs in float32; here the same code is made to keep float64."""
    kernel = require("trl.kernels.chunked_divergence")
    loss_of = require("trl.trainer.distillation_trainer")._chunked_divergence_loss

    class Double:
        float32 = torch.float64

        def __getattr__(self, name):
            return getattr(torch, name)

    student, teacher, _ = logits(kind)
    vocab = student.shape[1]

    def run(dtype):
        z = torch.tensor(student, dtype=dtype, requires_grad=True)
        head = torch.eye(vocab, dtype=dtype)
        mask = torch.ones(1, student.shape[0], dtype=torch.long)
        other = torch.tensor(teacher, dtype=dtype)[None]
        loss, _, count = loss_of(z[None], other, head, head, mask, beta, temperature=temperature)
        return ascent_of(loss * count, z)

    single = run(torch.float32)
    monkeypatch.setattr(kernel, "torch", Double())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    wanted = run(torch.float64)
    batch = NodeBatch.from_logits(student, teacher)
    found = get(f"trl/distillation:beta={beta},temperature={temperature}").ascent(batch)
    assert error(found, wanted) < LIMIT
    assert np.linalg.norm(found - single) < 1e-4 * np.linalg.norm(found)


def server(beta, tail):
    trainer = object.__new__(
        require(
            "trl.experimental.server_distillation.server_distillation_trainer"
        ).ServerDistillationTrainer
    )
    trainer.beta, trainer.loss_add_tail, trainer.reverse_kl_top_1_mode = beta, tail, "sampled"
    return trainer


def server_result(log_teacher, tokens, top_k):
    top = log_teacher.topk(top_k, dim=-1)
    return {
        "actual_logprobs": log_teacher.gather(-1, tokens[..., None])[..., 0],
        "topk_logprobs": top.values,
        "topk_token_ids": top.indices,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("top_k", [2, 20])
def test_server_distillation_forward(kind, temperature, tail, top_k):
    student, teacher, _ = logits(kind)
    z = leaf(student)
    tokens = torch.zeros(1, student.shape[0], dtype=torch.long)
    log_teacher = torch.log_softmax(torch.tensor(teacher) / temperature, -1)[None]
    loss = server(0.0, tail)._compute_server_forward_kl_loss(
        server_result(log_teacher, tokens, top_k),
        torch.log_softmax(z / temperature, -1)[None],
        tokens,
    )
    wanted = ascent_of(loss * student.shape[0], z)
    spec = f"trl/server_distillation:beta=0,top_k={top_k},tail={tail},temperature={temperature}"
    assert error(get(spec).ascent(NodeBatch.from_logits(student, teacher)), wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("beta", "tail"), [(1.0, True), (0.3, True), (0.7, True), (0.3, False)])
def test_server_distillation_sampled_and_expected(kind, temperature, beta, tail):
    """The loss at every node and every token y that could have been drawn."""
    student, teacher, sampled = logits(kind)
    nodes, vocab = student.shape
    z = leaf(np.broadcast_to(student, (vocab, nodes, vocab)).copy())
    tokens = torch.arange(vocab)[:, None].expand(vocab, nodes).contiguous()
    log_teacher = torch.log_softmax(torch.tensor(teacher) / temperature, -1)
    log_teacher = log_teacher.expand(vocab, nodes, vocab)
    loss = server(beta, tail)._compute_server_sparse_top_1_divergence_loss(
        server_result(log_teacher, tokens, 1),
        torch.log_softmax(z / temperature, -1),
        tokens,
        tokens,
    )
    per_token = ascent_of(loss * nodes * vocab, z)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    method = get(f"trl/server_distillation:beta={beta},tail={tail},temperature={temperature}")
    single = method.direction(batch, "sampled")
    fine = single.reason_N == ""
    assert fine.sum() > 0
    if tail:
        assert fine.all()
    wanted = per_token[sampled, np.arange(nodes)]
    assert error(single.ascent_NS[fine], wanted[fine]) < LIMIT
    p = batch.at(temperature).p_NS
    mean = np.einsum("ny,ynj->nj", p, per_token)
    assert error(method.ascent(batch), mean) < LIMIT
    squares = np.einsum("ny,ynj->n", p, per_token**2)
    norm = (mean**2).sum(axis=1)
    np.testing.assert_allclose(
        method.variance_ratio(batch), squares / norm - 1.0, rtol=1e-6, atol=1e-6
    )


def test_server_distillation_without_tail_has_no_reverse_gradient():
    student, teacher, sampled = logits("far")
    z = leaf(student)
    tokens = torch.tensor(sampled)[None]
    loss = server(1.0, False)._compute_server_sparse_top_1_divergence_loss(
        server_result(torch.log_softmax(torch.tensor(teacher), -1)[None], tokens, 1),
        torch.log_softmax(z, -1)[None],
        tokens,
        tokens,
    )
    assert np.abs(ascent_of(loss, z)).max() == 0.0
    batch = NodeBatch.from_logits(student, teacher, sampled)
    for estimator in ("expected", "sampled"):
        direction = get("trl/server_distillation:tail=false").direction(batch, estimator)
        assert np.isnan(direction.ascent_NS).all()
        assert all(reason.startswith("zero_method:") for reason in direction.reason_N)


@pytest.mark.parametrize("where", ["student", "teacher"])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_clamped_tail(where, beta):
    """Beyond a mass of 1 - 1e-7 on the set TRL clamps the tail: a different gradient."""
    student, teacher, _ = logits("far")
    sharp = student if where == "student" else teacher
    others = np.delete(sharp, 3, axis=1)
    sharp[:, 3] = np.log(np.exp(others).sum(axis=1)) + 17.5  # leaves 2.5e-8
    sampled = np.full(student.shape[0], 3)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    z = leaf(student)
    tokens = torch.tensor(sampled)[None]
    log_teacher = torch.log_softmax(torch.tensor(teacher), -1)[None]
    log_student = torch.log_softmax(z, -1)[None]
    trainer, result = server(beta, True), server_result(log_teacher, tokens, 1)
    if beta == 0.0:
        loss = trainer._compute_server_forward_kl_loss(result, log_student, tokens)
    else:
        loss = trainer._compute_server_sparse_top_1_divergence_loss(
            result, log_student, tokens, tokens
        )
    wanted = ascent_of(loss * student.shape[0], z)
    found = get(f"trl/server_distillation:beta={beta}").ascent(batch, "sampled")
    assert error(found, wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("top_k", "tail"), [(0, False), (5, True), (5, False), (200, True)])
def test_sdpo(kind, temperature, alpha, top_k, tail):
    utils = require("trl.experimental.sdpo.loss_utils")
    student, teacher, _ = logits(kind)
    z = leaf(student)
    scaled, other = z / temperature, torch.tensor(teacher) / temperature
    if top_k:
        loss = utils.compute_topk_self_distillation_loss(
            scaled,
            other,
            distillation_topk=top_k,
            distillation_alpha=alpha,
            distillation_add_tail=tail,
        )
    else:
        loss = utils.compute_full_logit_self_distillation_loss(
            scaled, other, distillation_alpha=alpha
        )
    wanted = ascent_of(loss.sum(), z)
    mode = "auto" if top_k else "full_logits"
    spec = f"trl/sdpo:alpha={alpha},top_k={top_k},tail={tail},mode={mode}"
    method = get(f"{spec},temperature={temperature}")
    assert error(method.ascent(NodeBatch.from_logits(student, teacher)), wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_sdpo_sampled_token(kind, temperature):
    utils = require("trl.experimental.sdpo.loss_utils")
    student, teacher, sampled = logits(kind)
    z = leaf(student)
    loss = utils.compute_sampled_token_self_distillation_loss(
        z[None] / temperature,
        torch.tensor(teacher)[None] / temperature,
        torch.tensor(sampled)[None],
        distillation_alpha=1.0,
    )
    wanted = ascent_of(loss.sum(), z)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    method = get(f"trl/sdpo:temperature={temperature}")
    assert error(method.ascent(batch, "sampled"), wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_iw_opd(kind, temperature, gamma):
    """Four spines of 16 tokens; the student samples at the trainer's temperature."""
    trainer = object.__new__(require("trl.experimental.iw_opd.iw_opd_trainer").IWOPDTrainer)
    trainer.temperature, trainer.iw_opd_gamma, trainer.iw_opd_epsilon = temperature, gamma, 1e-8
    trainer.model = SimpleNamespace(training=True)
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    student, teacher, sampled = logits(kind)
    z = leaf(student)
    tokens = torch.tensor(sampled).reshape(4, 16)
    log_teacher = torch.log_softmax(torch.tensor(teacher) / temperature, -1).reshape(4, 16, -1)
    loss = trainer._compute_iw_opd_loss(
        student_logits=z.reshape(4, 16, -1),
        completion_tokens=tokens,
        labels=tokens,
        teacher_actual_logprobs=log_teacher.gather(-1, tokens[..., None])[..., 0],
    )
    wanted = ascent_of(loss * 64, z)
    batch = NodeBatch.from_logits(student / temperature, teacher / temperature, sampled)
    rows = np.arange(64)
    begin = rows // 16 * 16
    spines = SpineView(
        begin_N=begin,
        at_N=rows,
        end_N=begin + 16,
        reward_N=np.zeros(64),
        group_mean_N=np.zeros(64),
        log_ratio_T=(batch.log_q_NS - batch.log_p_NS)[rows, sampled],
    )
    batch = NodeBatch.from_logits(
        student / temperature, teacher / temperature, sampled, spines=spines
    )
    found = get(f"trl/iw_opd:gamma={gamma}").ascent(batch, "sampled") / temperature
    assert error(found, wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(("beta", "top_k"), [(0.0, 1), (0.0, 8), (0.4, 8), (1.0, 8)])
def test_async_distillation(monkeypatch, kind, temperature, tail, beta, top_k):
    """The trainer's chunk, for every token that may be drawn; it casts, so float stays double."""
    module = require("trl.experimental.async_distillation.async_distillation_trainer")
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    student, teacher, sampled = logits(kind)
    nodes, vocab = student.shape
    log_teacher = torch.log_softmax(torch.tensor(teacher) / temperature, -1)
    top = log_teacher.topk(top_k, dim=-1)
    per_token = np.zeros((vocab, nodes, vocab))
    for token in range(vocab):
        drawn = torch.full((nodes,), token)
        known = (top.indices == token).any(-1)
        # What the server returns: the top-k, and the drawn token where it is not among them.
        ids = torch.cat([top.indices, torch.where(known, -1, token)[:, None]], -1)
        values = torch.cat([top.values, log_teacher[:, [token]]], -1)
        valid = ids != -1
        if beta:
            ids, values, valid = module._narrow_top1_actual_support(ids, values, drawn, valid, beta)
        z = leaf(student)
        head = torch.eye(vocab, dtype=torch.float64)
        loss, *_ = module._jsd_loss_chunk(
            z, head, None, 1.0, None, ids, values, valid, beta, temperature, tail, None, 1
        )
        per_token[token] = ascent_of(loss, z)
    method = get(
        f"trl/async_distillation:beta={beta},tail={tail},temperature={temperature}"
        + (f",top_k={top_k}" if beta == 0.0 else "")
    )
    batch = NodeBatch.from_logits(student, teacher, sampled)
    single = method.direction(batch, "sampled")
    fine = single.reason_N == ""
    wanted = per_token[sampled, np.arange(nodes)]
    if beta == 1.0 and not tail:
        assert not fine.any()
        assert np.abs(per_token).max() < 1e-12
        return
    assert fine.any()
    assert error(single.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-10
    p = batch.at(temperature).p_NS
    mean = np.einsum("ny,ynj->nj", p, per_token)
    assert error(method.ascent(batch), mean) < LIMIT
    squares = np.einsum("ny,ynj->n", p, per_token**2)
    norm = (mean**2).sum(axis=1)
    np.testing.assert_allclose(
        method.variance_ratio(batch), squares / norm - 1.0, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("support", ["student", "teacher"])
@pytest.mark.parametrize("skip", [0, 5])
def test_sdft(kind, support, skip):
    """Four responses of 16 tokens: the loss of the student's top 100, and its means."""
    utils = require("trl.experimental.sdft.loss_utils")
    student, teacher, sampled = logits(kind)
    z = leaf(student)
    other = torch.tensor(teacher)
    if support == "student":
        per_token = utils.compute_topk_self_distillation_loss(
            z,
            other,
            distillation_topk=100,
            distillation_alpha=0.5,
            distillation_add_tail=False,
        )
    else:
        # As SDFTTrainer._compute_server_self_distillation_loss: the teacher's top tokens.
        top = torch.log_softmax(other, -1).topk(100, dim=-1)
        own = torch.log_softmax(z, -1).gather(-1, top.indices)
        sides = [side - torch.logsumexp(side, -1, keepdim=True) for side in (own, top.values)]
        per_token = utils.compute_divergence(*sides, 0.5)
    mask = (torch.arange(16) >= skip).double()
    loss = (per_token.reshape(4, 16) * mask).sum(-1) / mask.sum()
    wanted = ascent_of(loss.sum(), z)
    rows = np.arange(64)
    zero = np.zeros(64)
    spines = SpineView(rows // 16 * 16, rows, rows // 16 * 16 + 16, zero, zero, zero)
    batch = NodeBatch.from_logits(student, teacher, sampled, spines=spines)
    found = get(f"trl/sdft:support={support},skip_first={skip}").direction(batch)
    fine = found.reason_N == ""
    assert fine.tolist() == (rows % 16 >= skip).tolist()
    assert error(found.ascent_NS[fine], wanted[fine]) < LIMIT
    assert (wanted[~fine] == 0.0).all()
