"""Truncated reverse KLs against autograd of their losses, and distortion against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign import methods
from gradalign.diagnostics.topk import FORMS, SIZES, distortion, spec
from gradalign.methods import NodeBatch

VOCAB = 30


def random_logits(seed, count=12):
    rng = np.random.default_rng(seed)
    student = rng.normal(scale=2.0, size=(count, VOCAB))
    return student, 0.5 * student + rng.normal(scale=1.5, size=(count, VOCAB))


def top(logits, k):
    return set(np.argsort(-logits, kind="stable")[:k].tolist())


def slow_ascent(student, teacher, k, form):
    """Minus the gradient of the loss as its definition has it, by autograd, one node."""
    z = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(z, 0)
    log_q = torch.log_softmax(torch.tensor(teacher, dtype=torch.float64), 0)
    kept = sorted(top(student, k) & top(teacher, k)) if k else list(range(VOCAB))
    p, q = log_p[kept], log_q[kept]
    if form == "renorm":
        p, q = p - torch.logsumexp(p, 0), q - torch.logsumexp(q, 0)
    gap = (p - q).detach() if form == "stop_gradient" else p - q
    loss = (p.exp() * gap).sum()
    if not kept:
        return np.zeros(VOCAB)
    loss.backward()
    return -z.grad.numpy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", SIZES)
def test_directions_against_autograd(form, k):
    """64 is more than there are tokens; 1 leaves sets with nothing in common."""
    student, teacher = random_logits(k)
    found = methods.get(spec(form, k)).ascent(NodeBatch.from_logits(student, teacher))
    empty = 0
    for n in range(len(student)):
        wanted = slow_ascent(student[n], teacher[n], k, form)
        np.testing.assert_allclose(np.nan_to_num(found[n]), wanted, atol=1e-9)
        empty += not (top(student[n], k) & top(teacher[n], k))
    assert empty > 0 or k > 1


def test_the_full_direction_against_autograd():
    student, teacher = random_logits(5)
    found = methods.get(spec("", 0)).ascent(NodeBatch.from_logits(student, teacher))
    wanted = [slow_ascent(s, t, 0, "full") for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("kept", [5, VOCAB])
def test_distortion_against_a_loop_over_the_vocabulary(kept):
    """What the support misses lies evenly on the tail's tokens."""
    rng = np.random.default_rng(kept)
    spread = np.eye(VOCAB)
    if kept < VOCAB:
        spread[kept:, kept:] = 1.0 / (VOCAB - kept)
    m, full = rng.normal(size=(2, 20, VOCAB)) @ spread
    m, full = m - m.mean(axis=1, keepdims=True), full - full.mean(axis=1, keepdims=True)
    found = distortion(m[:, :kept], full[:, :kept], np.full(20, VOCAB - kept))
    for n in range(20):
        lengths = [sum(x * x for x in v[n]) ** 0.5 for v in (m, full)]
        inner = sum(x * y for x, y in zip(m[n], full[n], strict=True))
        assert found.cosine_N[n] == pytest.approx(inner / lengths[0] / lengths[1], abs=1e-9)
        assert found.norm_ratio_N[n] == pytest.approx(lengths[0] / lengths[1], abs=1e-9)
        gap = sum((x - y) ** 2 for x, y in zip(m[n], full[n], strict=True)) ** 0.5
        assert found.distance_N[n] == pytest.approx(gap / lengths[1], abs=1e-9)
        assert found.full_norm2_N[n] == pytest.approx(lengths[1] ** 2, abs=1e-9)


def test_zero_directions():
    some, none = np.array([[0.5, -0.5]]), np.array([[np.nan, np.nan]])
    gone = distortion(none, some, [0])
    assert np.isnan(gone.cosine_N[0])
    assert (gone.norm_ratio_N[0], gone.distance_N[0]) == (0.0, 1.0)
    undefined = distortion(some, none, [0])
    assert np.isnan([undefined.cosine_N[0], undefined.norm_ratio_N[0]]).all()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="two directions"):
        distortion(np.zeros((2, 3)), np.zeros((2, 4)), [0, 0])


def test_a_biased_top_1_pushes_down_what_both_models_prefer():
    """At k = 1 the one shared token is promoted only where Q > e P."""
    student, teacher = np.log([[0.6, 0.3, 0.1]]), np.log([[0.9, 0.05, 0.05]])
    batch = NodeBatch.from_logits(student, teacher)
    assert methods.get(spec("biased", 1)).ascent(batch)[0, 0] < 0
    assert methods.get(spec("stop_gradient", 1)).ascent(batch)[0, 0] > 0
    assert methods.get("opd").ascent(batch)[0, 0] > 0
