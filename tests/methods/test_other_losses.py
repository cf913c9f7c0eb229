"""Directions against autograd of losses written here, for trainers that are not on PyPI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gradalign.methods import Continuations, NodeBatch, get
from tests.methods.made_up import KINDS, error, logits, with_rollouts

LIMIT = 1e-6


def both(kind, temperature=1.0):
    student, teacher, sampled = logits(kind)
    z = torch.tensor(student, requires_grad=True)
    log_p = torch.log_softmax(z / temperature, -1)
    log_q = torch.log_softmax(torch.tensor(teacher) / temperature, -1)
    return NodeBatch.from_logits(student, teacher, sampled), z, log_p, log_q


def ascent_of(loss, z):
    (gradient,) = torch.autograd.grad(loss.sum(), z, retain_graph=True)
    return -gradient.numpy()


def top_mask(log_x, k):
    mask = torch.zeros(log_x.shape, dtype=torch.bool)
    return mask.scatter(-1, log_x.topk(k, dim=-1).indices, True)


def set_of(support, log_p, log_q, k):
    own, other = top_mask(log_p.detach(), k), top_mask(log_q, k)
    return {
        "student": own,
        "teacher": other,
        "union": own | other,
        "intersection": own & other,
    }[support]


def kl(log_a, log_b):
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def jsd(log_p, log_q, beta):
    if beta == 0.0:
        return kl(log_q, log_p)
    if beta == 1.0:
        return kl(log_p, log_q)
    middle = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    return beta * kl(log_q, middle) + (1 - beta) * kl(log_p, middle)


def renormalise(log_x, inside):
    kept = log_x.masked_fill(~inside, -1e300)
    return kept - torch.logsumexp(kept, -1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("support", ["student", "teacher", "union", "intersection"])
@pytest.mark.parametrize("norm", ["renorm", "tail", "none"])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_opd_on_top_tokens(kind, temperature, support, norm, stop_gradient):
    batch, z, log_p, log_q = both(kind, temperature)
    inside = set_of(support, log_p, log_q, 100)
    outside_p, outside_q = [(log_x.exp() * ~inside).sum(-1) for log_x in (log_p, log_q)]
    if norm == "renorm":
        left, right = renormalise(log_p, inside), renormalise(log_q, inside)
        mass, ratio = left.exp() * inside, torch.where(inside, left - right, 0.0)
        extra = torch.zeros(())
    else:
        mass, ratio = log_p.exp() * inside, log_p - log_q
        last = (outside_p / outside_q).log()
        extra = outside_p * (last.detach() if stop_gradient else last)
    ratio = ratio.detach() if stop_gradient else ratio
    loss = (mass * ratio).sum(-1) + (extra if norm == "tail" else 0.0)
    spec = f"opd:top_k=100,support={support},norm={norm},stop_gradient={stop_gradient}"
    found = get(f"{spec},temperature={temperature}").ascent(batch)
    assert error(found, ascent_of(loss, z)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_opd_full(kind, temperature):
    batch, z, log_p, log_q = both(kind, temperature)
    method = get(f"opd:temperature={temperature}")
    assert error(method.ascent(batch), ascent_of(kl(log_p, log_q), z)) < LIMIT
    y = torch.tensor(batch.sampled_N)[:, None]
    own, other = log_p.gather(-1, y), log_q.gather(-1, y)
    loss = -(other - own).detach() * own
    assert error(method.ascent(batch, "sampled"), ascent_of(loss, z)) < LIMIT


def summands(log_p, log_q, beta):
    """What each token adds to the divergence."""
    if beta == 0.0:
        return log_q.exp() * (log_q - log_p)
    if beta == 1.0:
        return log_p.exp() * (log_p - log_q)
    middle = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    own, other = log_p.exp() * (log_p - middle), log_q.exp() * (log_q - middle)
    return beta * other + (1 - beta) * own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.1, 1.7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [0, 20])
@pytest.mark.parametrize("clip", [0.0, 0.001, 0.05])
def test_opsd(kind, temperature, beta, top_k, clip):
    batch, z, log_p, log_q = both(kind, temperature)
    if top_k:
        index = top_mask(log_q, top_k).nonzero()[:, 1].reshape(-1, top_k)
        log_p = torch.log_softmax(log_p.gather(-1, index), -1)
        log_q = torch.log_softmax(log_q.gather(-1, index), -1)
    loss = summands(log_p, log_q, beta)
    loss = loss.clamp(max=clip) if clip else loss
    spec = f"opsd:beta={beta},clip={clip},temperature={temperature},top_k={top_k}"
    found, wanted = get(spec).direction(batch), ascent_of(loss.sum(-1), z)
    fine = found.reason_N == ""
    assert error(found.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-12
    if clip == 0.05:
        assert fine.all()


def test_the_clip_can_turn_a_node_round():
    """Three tokens: what the teacher wants most is clipped, and goes down with the rest."""
    student, teacher = np.log([[0.6, 0.3, 0.1]]), np.log([[0.2, 0.7, 0.1]])
    batch = NodeBatch.from_logits(student, teacher)
    free = get("opsd:clip=0,temperature=1").ascent(batch)[0]
    clipped = get("opsd:temperature=1").ascent(batch)[0]
    np.testing.assert_allclose(free, [-0.4, 0.4, 0.0], atol=1e-12)
    np.testing.assert_allclose(clipped, [0.02, -0.09, 0.07], atol=1e-12)


def verl_estimate(name, log_p, log_q):
    gap = log_p - log_q
    if name == "k1":
        return gap
    if name == "k2":
        return 0.5 * gap**2
    if name == "abs":
        return gap.abs()
    toward = (log_q - log_p).clamp(-20, 20)
    return (toward.exp() - toward - 1).clamp(-10, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["k1", "k2", "k3", "abs"])
@pytest.mark.parametrize("mode", ["direct", "pg"])
@pytest.mark.parametrize("clamp", [float("inf"), 0.5])
def test_verl_estimators(kind, name, mode, clamp):
    batch, z, log_p, log_q = both(kind)
    losses = verl_estimate(name, log_p, log_q)
    if clamp < 10:
        losses = losses.clamp(-clamp, clamp)
    per_token = losses.detach() * log_p if mode == "pg" else losses
    y = torch.tensor(batch.sampled_N)[:, None]
    method = get(f"verl/{name}:mode={mode},max_clamp={clamp}")
    single = method.direction(batch, "sampled")
    fine = single.reason_N == ""
    wanted = ascent_of(per_token.gather(-1, y), z)
    assert (np.abs(wanted[~fine]).max(initial=0.0)) < 1e-12
    if fine.any():
        assert error(single.ascent_NS[fine], wanted[fine]) < LIMIT
    mean = ascent_of(log_p.detach().exp() * per_token, z)
    expected = method.direction(batch)
    if name == "k1" and mode == "direct" and np.abs(mean).max() < 1e-12:
        assert all(reason.startswith("zero_method:") for reason in expected.reason_N)
    else:
        fine = expected.reason_N == ""
        assert fine.any()
        assert np.abs(mean[~fine]).max(initial=0.0) < 1e-10
        assert error(expected.ascent_NS[fine], mean[fine]) < LIMIT


def test_verl_k3_averages_to_the_forward_divergence():
    student, teacher, _ = logits("near")
    batch = NodeBatch.from_logits(student, teacher)
    assert error(get("verl/k3").ascent(batch), get("gkd:beta=0").ascent(batch)) < 1e-10
    assert error(get("verl/k2").ascent(batch), get("gkd:beta=1").ascent(batch)) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 32, 200])
@pytest.mark.parametrize("least", [float("-inf"), -4.0])
def test_verl_forward_kl_topk(kind, top_k, least):
    batch, z, log_p, log_q = both(kind)
    index = log_q.topk(top_k, dim=-1).indices
    left, right = log_p.gather(-1, index), log_q.gather(-1, index)
    if np.isfinite(least):
        left, right = left.clamp_min(least), right.clamp_min(least)
    raw = (right.exp() * (right - left)).sum(-1)
    wanted = ascent_of(raw.clamp_min(0.0), z)
    found = get(f"verl/forward_kl_topk:top_k={top_k},log_prob_min={least}").direction(batch)
    negative = (raw < 0).numpy()
    assert np.abs(wanted[negative]).max(initial=0.0) == 0.0
    clamped = "zero_method:the loss is negative and clamped at 0"
    assert (found.reason_N[negative] == clamped).all()
    rest = ~negative & (found.reason_N == "")
    if kind == "flat" and np.isfinite(least):
        assert (found.reason_N[~negative] == "zero_method:every log probability is clamped").all()
        return
    assert rest.any()
    assert error(found.ascent_NS[rest], wanted[rest]) < LIMIT
    assert np.abs(wanted[~negative & ~rest]).max(initial=0.0) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["student_p", "teacher_p"])
@pytest.mark.parametrize(
    ("strategy", "support"),
    [
        ("only_stu", "student"),
        ("only_tch", "teacher"),
        ("union", "union"),
        ("intersection", "intersection"),
    ],
)
def test_thunlp(kind, weight, strategy, support):
    batch, z, log_p, log_q = both(kind)
    inside = set_of(support, log_p, log_q, 60)
    probability = (log_p if weight == "student_p" else log_q).detach().exp() * inside
    share = probability / probability.sum(-1, keepdim=True)
    reward = share * (log_q - log_p).detach()
    found = get(f"thunlp/opd:top_k=60,strategy={strategy},weight={weight}").ascent(batch)
    assert error(found, ascent_of(-(reward * log_p), z)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [20, 200])
def test_tinker(kind, top_k):
    batch, z, log_p, log_q = both(kind)
    index = log_q.topk(top_k, dim=-1).indices
    left = torch.log_softmax(log_p.gather(-1, index), -1)
    right = torch.log_softmax(log_q.gather(-1, index), -1)
    found = get(f"tinker/sdft_reverse:top_k={top_k}").ascent(batch)
    assert error(found, ascent_of(kl(left, right), z)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 32, 200])
@pytest.mark.parametrize("least", [float("-inf"), -10.0])
def test_verl_reverse_kl_topk(kind, top_k, least):
    batch, z, log_p, log_q = both(kind)
    index = log_p.topk(top_k, dim=-1).indices
    left, right = log_p.gather(-1, index), log_q.gather(-1, index)
    if np.isfinite(least):
        left, right = left.clamp_min(least), right.clamp_min(least)
    raw = (left.exp() * (left - right)).sum(-1)
    wanted = ascent_of(raw.clamp_min(0.0), z)
    found = get(f"verl/reverse_kl_topk:top_k={top_k},log_prob_min={least}").direction(batch)
    negative = (raw < 0).detach().numpy()
    assert (found.reason_N[negative] == "zero_method:the loss is negative and clamped at 0").all()
    fine = found.reason_N == ""
    assert fine.any()
    assert error(found.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 8, 128])
def test_verl_forward_kl_topk_tail(kind, top_k):
    batch, z, log_p, log_q = both(kind)
    inside = top_mask(log_q, top_k)
    rest_p, rest_q = [(item.exp() * ~inside).sum(-1) for item in (log_p, log_q)]
    loss = torch.where(inside, log_q.exp() * (log_q - log_p), 0.0).sum(-1)
    loss = loss + rest_q * (rest_q / rest_p).log()
    found = get(f"verl/forward_kl_topk_tail:top_k={top_k}").ascent(batch)
    assert error(found, ascent_of(loss, z)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [2, 64])
@pytest.mark.parametrize("kl_type", ["forward", "reverse", "mixed"])
@pytest.mark.parametrize("weight", [0.5, 0.2])
@pytest.mark.parametrize("outside", [False, True])
def test_nemo(kind, top_k, kl_type, weight, outside):
    batch, z, log_p, log_q = both(kind)
    index = log_q.topk(top_k, dim=-1).indices
    right = torch.log_softmax(log_q.gather(-1, index), -1)
    left = log_p.gather(-1, index)
    if not outside:
        left = torch.log_softmax(left, -1)
    forward, reverse = kl(right, left), kl(left, right)
    if outside:
        # Of the rest: sum of p log p, and 100 for every unit of its mass.
        spent = (log_p.exp() * log_p).sum(-1) - (left.exp() * left).sum(-1)
        reverse = reverse + spent + 100.0 * (1.0 - left.exp().sum(-1))
    share = {"forward": 1.0, "reverse": 0.0, "mixed": weight}[kl_type]
    spec = (
        f"nemo/distillation:kl_type={kl_type},mixed_kl_weight={weight},top_k={top_k},"
        f"zero_outside_topk={outside}"
    )
    wanted = ascent_of(share * forward + (1.0 - share) * reverse, z)
    assert error(get(spec).ascent(batch), wanted) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [0, 64])
@pytest.mark.parametrize("skew", [0.0, 0.1, 0.7])
@pytest.mark.parametrize(
    "objective",
    [
        "forward_kl",
        "reverse_kl",
        "adaptive_kl",
        "skewed_forward_kl",
        "skewed_reverse_kl",
        "js_divergence",
    ],
)
def test_roll(kind, top_k, skew, objective):
    batch, z, log_p, log_q = both(kind)
    if top_k:
        index = log_q.topk(top_k, dim=-1).indices
        log_p, log_q = [torch.log_softmax(x.gather(-1, index), -1) for x in (log_p, log_q)]
    p, q = log_p.exp(), log_q.exp()
    if objective == "adaptive_kl":
        order = q.argsort(-1)
        gap = (q - p).abs().detach().gather(-1, order)
        unlikely = q.gather(-1, order).cumsum(-1) <= 0.5
        head, tail = (gap * ~unlikely).sum(-1), (gap * unlikely).sum(-1)
        loss = (head * kl(log_q, log_p) + tail * kl(log_p, log_q)) / (head + tail)
    else:
        loss = {
            "forward_kl": lambda: kl(log_q, log_p),
            "reverse_kl": lambda: kl(log_p, log_q),
            "skewed_forward_kl": lambda: kl(log_q, (skew * q + (1 - skew) * p).log()),
            "skewed_reverse_kl": lambda: kl(log_p, ((1 - skew) * q + skew * p).log()),
            "js_divergence": lambda: jsd(log_p, log_q, 0.5),
        }[objective]()
    found = get(f"roll/distill:objective={objective},top_k={top_k},skew={skew}").ascent(batch)
    assert error(found, ascent_of(loss, z)) < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", ["student_p", "teacher_p", "none"])
@pytest.mark.parametrize(
    "strategy", ["only-student", "only-teacher", "intersection", "union", "xor"]
)
def test_miles_topk(kind, weight, strategy):
    """One number per node, whatever was drawn: nothing on average."""
    batch, z, log_p, log_q = both(kind)
    own, other = top_mask(log_p.detach(), 60), top_mask(log_q, 60)
    inside = {
        "only-student": own,
        "only-teacher": other,
        "intersection": own & other,
        "union": own | other,
        "xor": own ^ other,
    }[strategy]
    log_w = {"student_p": log_p.detach(), "teacher_p": log_q, "none": torch.zeros_like(log_q)}
    share = log_w[weight].exp() * inside
    if strategy != "xor":
        share = share / share.sum(-1, keepdim=True)
    penalty = (share * (log_p - log_q).detach()).sum(-1)
    y = torch.tensor(batch.sampled_N)[:, None]
    method = get(f"miles/opd_topk:top_k=60,strategy={strategy},weight={weight}")
    wanted = ascent_of(penalty * log_p.gather(-1, y)[:, 0], z)
    single = method.direction(batch, "sampled")
    fine = single.reason_N == ""
    assert error(single.ascent_NS[fine], wanted[fine]) < LIMIT
    assert np.abs(wanted[~fine]).max(initial=0.0) < 1e-11
    reasons = method.direction(batch).reason_N
    assert all(reason.startswith("zero_method:") for reason in reasons)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [0.5, 2.0, float("inf")])
@pytest.mark.parametrize("drawn_at", [0.7, 1.0, 1.7])
def test_opd_with_importance_caps(kind, cap, drawn_at):
    """Tokens drawn at another temperature, each weighing its capped ratio."""
    batch, z, log_p, log_q = both(kind)
    log_b = torch.log_softmax(z.detach() / drawn_at, -1)
    weight = (log_p.detach() - log_b).exp().clamp(max=cap)
    per_token = -weight * (log_q - log_p).detach() * log_p
    method = get(f"opd:importance_cap={cap},sampling_temperature={drawn_at}")
    assert error(method.ascent(batch), ascent_of(log_b.exp() * per_token, z)) < LIMIT
    y = torch.tensor(batch.sampled_N)[:, None]
    wanted = ascent_of(per_token.gather(-1, y), z)
    assert error(method.ascent(batch, "sampled"), wanted) < LIMIT
    if cap == float("inf"):
        assert error(method.ascent(batch), get("opd").ascent(batch)) < LIMIT


@pytest.mark.parametrize("spec", ["gkd", "opd", "opd:top_k=16"])
def test_positions_weigh_as_the_loss_does(spec):
    """Responses of 1 to 5 tokens: a mean of means, without the first two."""
    batch, *_ = both("far")
    batch = with_rollouts(batch)
    spines = batch.spines
    plain = get(spec).ascent(batch)
    join = "," if ":" in spec else ":"
    kept = spines.at_N - spines.begin_N >= 2
    length = spines.end_N - spines.begin_N
    assert kept.any()
    assert not kept.all()
    for options, weight in (
        ("skip_first=2", kept * 1.0),
        ("per=sequence", 1.0 / length),
        ("skip_first=2,per=sequence", kept / np.maximum(length - 2, 1)),
    ):
        method = get(spec + join + options)
        assert "spine" in method.needs
        found = method.direction(batch)
        zero = weight == 0.0
        np.testing.assert_allclose(
            found.ascent_NS[~zero], (plain * weight[:, None])[~zero], rtol=1e-12
        )
        assert all(
            reason.startswith("zero_method:the loss leaves") for reason in found.reason_N[zero]
        )
        np.testing.assert_allclose(
            method.variance_ratio(batch)[~zero], get(spec).variance_ratio(batch)[~zero], rtol=1e-9
        )


# Methods that look ahead: a response is a chain of tokens, its loss written out in full.


def chain(batch, node):
    """The spine through a node: first position, the node's own, last plus one."""
    spines = batch.spines
    return int(spines.begin_N[node]), int(spines.at_N[node]), int(spines.end_N[node])


def spine_log_p(batch, node, z):
    """Log probabilities of a spine's tokens; the node's own follow z, the others are leaves."""
    begin, at, end = chain(batch, node)
    values = []
    for token in range(begin, end):
        if token == at:
            values.append(torch.log_softmax(z[node], -1)[int(batch.sampled_N[node])])
        else:
            values.append(torch.tensor(-1.0, dtype=torch.float64))
    return torch.stack(values), torch.tensor(batch.spines.log_ratio_T[begin:end]), at - begin


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("length_norm", [True, False])
@pytest.mark.parametrize("single_step", [True, False])
def test_trl_minillm_sampled(gamma, length_norm, single_step):
    """The undetached advantages of the whole response; other tokens' policies are constants."""
    student, teacher, sampled = logits("far", nodes=24, vocab=30)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    z = torch.tensor(student, requires_grad=True)
    log_q_all = torch.log_softmax(torch.tensor(teacher), -1)
    total = torch.zeros((), dtype=torch.float64)
    for node in range(24):
        log_p, ratio, _ = spine_log_p(batch, node, z)
        log_q = (log_p + ratio).detach()
        reward = log_q - log_p
        steps = torch.arange(len(reward))
        if gamma > 0:
            power = gamma**steps
            advantage = (reward * power).flip(0).cumsum(0).flip(0)
            if length_norm:
                advantage = advantage / power.flip(0).cumsum(0).flip(0)
        else:
            advantage = reward
        ratio_now = (log_p - log_p.detach()).exp()
        total = total - (ratio_now * advantage).sum()
        if single_step:
            total = total + kl(torch.log_softmax(z[node], -1), log_q_all[node])
    wanted = ascent_of(total, z)
    spec = f"trl/minillm:gamma={gamma},length_norm={length_norm},single_step={single_step}"
    assert error(get(spec).ascent(batch, "sampled"), wanted) < LIMIT


@pytest.mark.parametrize("alpha", [0.0, 0.2])
@pytest.mark.parametrize("whiten", [True, False])
def test_lmops_minillm_sampled(alpha, whiten):
    student, teacher, sampled = logits("far", nodes=24, vocab=30)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    z = torch.tensor(student, requires_grad=True)
    log_q_all = torch.log_softmax(torch.tensor(teacher), -1)
    returns = []
    for node in range(24):
        _, ratio, _ = spine_log_p(batch, node, z)
        reward = (ratio / 0.5).clip(-100, 100)
        last, backwards = 0.0, []
        for value in reversed(reward.tolist()):
            last = value + 0.95 * last
            backwards.append(last)
        values = torch.tensor(backwards[::-1], dtype=torch.float64)
        returns.append(values / torch.arange(len(values), 0, -1))
    mixed = torch.cat(returns)
    mean, var = (mixed.mean(), mixed.var(correction=0)) if whiten else (0.0, 1.0 - 1e-8)
    total = torch.zeros((), dtype=torch.float64)
    for node in range(24):
        log_p, ratio, own = spine_log_p(batch, node, z)
        p = log_p.detach().exp()
        mixture = (1 - alpha) * p + alpha * (log_p.detach() + ratio).exp()
        weight = p / mixture
        advantage = (returns[node] - mean) / (var + 1e-8) ** 0.5
        importance = (log_p - log_p.detach()).exp() * weight
        loss = torch.maximum(-advantage * importance, -advantage * importance.clip(0.8, 1.2))
        total = total + loss[own] + kl(torch.log_softmax(z[node], -1), log_q_all[node])
    wanted = ascent_of(total, z)
    found = get(f"lmops/minillm:alpha={alpha},whiten={whiten}").ascent(batch, "sampled")
    assert error(found, wanted) < LIMIT


def test_sequence_level_reverse_kl():
    """minillm:gamma=1 is the gradient of the KL between whole responses of two tokens."""
    rng = np.random.default_rng(3)
    first, other = rng.normal(size=3), rng.normal(size=3)
    # After token j the student's next token has probabilities in quarters, so that four
    # continuations are an exact average.
    quarters = np.array([[1, 1, 2], [2, 1, 1], [1, 2, 1]])
    teacher_next = np.log(rng.dirichlet(np.ones(3), size=3))
    z = torch.tensor(first, requires_grad=True)
    log_p = torch.log_softmax(z, -1)
    log_q = torch.log_softmax(torch.tensor(other), -1)
    next_p = torch.tensor(quarters / 4.0)
    pair_p = log_p[:, None] + next_p.log()
    pair_q = log_q[:, None] + torch.tensor(teacher_next)
    (gradient,) = torch.autograd.grad((pair_p.exp() * (pair_p - pair_q)).sum(), z)
    slots, ratios = [], []
    for token in range(3):
        for after in range(3):
            slots += [token] * int(quarters[token, after])
            gap = teacher_next[token, after] - np.log(quarters[token, after] / 4.0)
            ratios += [gap] * int(quarters[token, after])
    count = len(slots)
    rolled = Continuations(
        node_K=np.zeros(count, dtype=np.int64),
        slot_K=np.array(slots),
        reward_K=np.zeros(count),
        half_K=np.zeros(count, dtype=np.int64),
        start_K=np.arange(count),
        stop_K=np.arange(count) + 1,
        log_ratio_T=np.array(ratios),
    )
    batch = NodeBatch.from_logits(first[None], other[None], continuations=rolled)
    for single_step in (True, False):
        method = get(f"minillm:gamma=1,single_step={single_step}")
        np.testing.assert_allclose(method.ascent(batch)[0], -gradient.numpy(), atol=1e-12)


def naive_future(batch, gamma, length_norm):
    """Mean discounted future per slot, by loops; unseen slots get the seen ones' mean."""
    rolled = batch.continuations
    nodes, slots = batch.log_p_NS.shape
    values = [[[] for _ in range(slots)] for _ in range(nodes)]
    for k in range(rolled.node_K.size):
        window = rolled.log_ratio_T[rolled.start_K[k] : rolled.stop_K[k]]
        total = sum(gamma ** (i + 1) * r for i, r in enumerate(window))
        if length_norm and len(window):
            total /= len(window)
        values[rolled.node_K[k]][rolled.slot_K[k]].append(total)
    result = np.zeros((nodes, slots))
    for node in range(nodes):
        seen = [slot for slot in range(slots) if values[node][slot]]
        for slot in seen:
            result[node, slot] = np.mean(values[node][slot])
        p = np.exp(batch.log_p_NS[node, seen])
        unseen = [slot for slot in range(slots) if slot not in seen]
        result[node, unseen] = (p * result[node, seen]).sum() / p.sum()
    return result


@pytest.mark.parametrize("gamma", [0.5, 0.999, 1.0])
@pytest.mark.parametrize("length_norm", [True, False])
def test_minillm_expected_by_loops(gamma, length_norm):
    student, teacher, sampled = logits("far", nodes=20, vocab=15)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    z = torch.tensor(student, requires_grad=True)
    log_p = torch.log_softmax(z, -1)
    weight = torch.tensor(batch.log_q_NS - batch.log_p_NS + naive_future(batch, gamma, length_norm))
    wanted = ascent_of(-(log_p.exp() * weight), z)
    for single_step in (True, False):
        spec = f"minillm:gamma={gamma},length_norm={length_norm},single_step={single_step}"
        assert error(get(spec).ascent(batch), wanted) < LIMIT


def test_minillm_without_discounting_ahead_is_token_level():
    student, teacher, sampled = logits("far")
    batch = NodeBatch.from_logits(student, teacher, sampled)
    for single_step in (True, False):
        method = get(f"minillm:gamma=0,single_step={single_step}")
        assert method.needs == {"teacher"}
        np.testing.assert_allclose(method.ascent(batch), get("opd").ascent(batch), atol=1e-13)
    np.testing.assert_allclose(
        get("minillm:gamma=0,single_step=false").ascent(batch, "sampled"),
        get("opd").ascent(batch, "sampled"),
        atol=1e-13,
    )


def test_halves_use_disjoint_continuations():
    student, teacher, sampled = logits("far", nodes=20, vocab=15)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    for spec in ("minillm", "dr_grpo", "lmops/minillm"):
        method = get(spec)
        assert method.uses_continuations
        parts = [method.ascent(batch.half(index)) for index in (0, 1)]
        assert not np.allclose(parts[0], parts[1], equal_nan=True)
        other = batch.continuations.half(1)
        changed = replace(
            batch.continuations,
            reward_K=np.where(batch.continuations.half_K == 1, 0.5, batch.continuations.reward_K),
        )
        assert other.node_K.size < batch.continuations.node_K.size
        same = method.ascent(replace(batch, continuations=changed).half(0))
        np.testing.assert_array_equal(same, parts[0])
