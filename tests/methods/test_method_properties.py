"""Properties that every direction has, on distributions that hypothesis chooses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradalign.methods import (
    Continuations,
    NodeBatch,
    SampledToken,
    SpineView,
    get,
    names,
    restrict,
)
from gradalign.methods.gkd import GKD
from tests.methods.made_up import draw, with_rollouts

# Top sets must fit the small vocabularies here and must not always be all of them.
SMALL = {
    "opd:top_k=2",
    "opd:top_k=3,support=teacher",
    "opd:top_k=3,support=union,norm=tail",
    "opd:top_k=3,support=intersection,norm=none",
    "opd:top_k=2,norm=none,stop_gradient=true",
    "opsd:top_k=3",
    "opsd:top_k=3,beta=0.5,clip=0",
    "opsd:beta=0.5,clip=0.01",
    "opsd:beta=1",
    "opd:sampling_temperature=1.7,importance_cap=0.8",
    "gkd:skip_first=2,per=sequence",
    "trl/async_distillation:top_k=2",
    "trl/async_distillation:top_k=2,tail=false",
    "trl/async_distillation:beta=0.4",
    "trl/sdft:top_k=3",
    "verl/reverse_kl_topk:top_k=3",
    "verl/topk_reward:top_k=3",
    "verl/topk_reward:loss_mode=reverse_kl_topk,top_k=3",
    "verl/forward_kl_topk_tail:top_k=3",
    "tinker/sdft:top_k=3,skip_first=0",
    "swift/rlsd:mix=1,negative_only=true",
    "nemo/distillation:top_k=3",
    "nemo/distillation:top_k=3,zero_outside_topk=true",
    "roll/distill:top_k=3,objective=adaptive_kl",
    "roll/distill:top_k=3,objective=skewed_forward_kl",
    "roll/distill:top_k=0,objective=skewed_reverse_kl",
    "miles/opd_topk:top_k=3",
    "torchrl/distillation:per=token",
    "trl/sdpo:top_k=3,alpha=0.3",
    "trl/sdpo:top_k=3,tail=true",
    "trl/sdpo:mode=full_logits,alpha=0.3",
    "trl/server_distillation:beta=0,top_k=3",
    "trl/server_distillation:beta=0,top_k=3,tail=false",
    "trl/server_distillation:beta=0.4",
    "trl/server_distillation:beta=0.4,tail=false",
    "trl/minillm:gamma=0.7",
    "trl/minillm:gamma=0.7,length_norm=false",
    "minillm:gamma=0.5,length_norm=true,single_step=false",
    "verl/k1:mode=pg",
    "verl/k2:mode=pg",
    "verl/k3:mode=pg",
    "verl/abs:mode=pg",
    "verl/forward_kl_topk:top_k=3",
    "thunlp/opd:top_k=3",
    "thunlp/opd:top_k=3,strategy=union,weight=teacher_p",
    "tinker/sdft_reverse:top_k=3",
    "gkd:beta=0",
    "gkd:beta=1",
    "gkd:beta=0.5,temperature=1.7",
}
SPECS = sorted(SMALL | set(names()))


@st.composite
def worlds(draw_from, least=2, most=9):
    nodes = draw_from(st.integers(1, 4))
    vocab = draw_from(st.integers(least, most))
    seed = draw_from(st.integers(0, 2**32 - 1))
    scale = draw_from(st.sampled_from([0.01, 1.0, 5.0, 15.0]))
    apart = draw_from(st.sampled_from([0.01, 1.0, 5.0]))
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(nodes, vocab)) * scale
    teacher = student + rng.normal(size=(nodes, vocab)) * apart
    return student, teacher, draw(student, rng), rng


def full(student, teacher, sampled, seed=0):
    return with_rollouts(NodeBatch.from_logits(student, teacher, sampled), seed)


def close(found, wanted, rtol=1e-7, least=1e-300):
    """Equal up to rounding on the scale of each row (or to `least`), NaN rows alike."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    size = np.abs(wanted).max(axis=1, keepdims=True)
    fine = ~np.isnan(size[:, 0])
    assert (np.abs(found - wanted)[fine] <= rtol * size[fine] + least).all()


@pytest.mark.parametrize("estimator", ["expected", "sampled"])
@pytest.mark.parametrize("spec", SPECS)
@given(world=worlds())
@settings(max_examples=15, deadline=None)
def test_sums_to_zero_and_nan_rows_have_reasons(spec, estimator, world):
    student, teacher, sampled, _ = world
    direction = get(spec).direction(full(student, teacher, sampled), estimator)
    fine = direction.reason_N == ""
    ascent = direction.ascent_NS
    assert np.isfinite(ascent[fine]).all()
    assert np.isnan(ascent[~fine]).all()
    size = np.abs(ascent[fine]).max(axis=1)
    assert (size > 0).all()
    assert (np.abs(ascent[fine].sum(axis=1)) <= 1e-12 * size + 1e-15).all()
    for reason in direction.reason_N[~fine]:
        assert reason.split(":")[0] in ("zero_method", "undefined_method")
        assert reason.split(":")[1]


# `random` is a hash of the log probabilities, to the last bit.
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "random"])
@given(world=worlds(), shift=st.floats(-50, 50))
@settings(max_examples=10, deadline=None)
def test_a_constant_on_the_logits_changes_nothing(spec, world, shift):
    student, teacher, sampled, _ = world
    for estimator in ("expected", "sampled"):
        before = get(spec).direction(full(student, teacher, sampled), estimator)
        after = get(spec).direction(full(student + shift, teacher - shift, sampled), estimator)
        # The shift rounds the logits themselves at 1e-14.
        same = before.reason_N == after.reason_N
        close(after.ascent_NS[same], before.ascent_NS[same], rtol=1e-6)
        # A direction that is fine on one side only was no more than that rounding.
        for one in (before, after):
            assert (np.abs(one.ascent_NS[~same & (one.reason_N == "")]) < 1e-10).all()


@pytest.mark.parametrize("spec", SPECS)
@given(world=worlds())
@settings(max_examples=10, deadline=None)
def test_permuting_the_vocabulary_permutes_the_direction(spec, world):
    student, teacher, sampled, rng = world
    batch = full(student, teacher, sampled)
    order = rng.permutation(student.shape[1])
    place = np.argsort(order)
    moved = replace(
        batch,
        log_p_NS=batch.log_p_NS[:, order],
        log_q_NS=batch.log_q_NS[:, order],
        ids_NS=batch.ids_NS[:, order],
        sampled_N=place[sampled],
        continuations=replace(batch.continuations, slot_K=place[batch.continuations.slot_K]),
    )
    for estimator in ("expected", "sampled"):
        before = get(spec).ascent(batch, estimator)
        # Probabilities that are summed in another order differ by as much.
        close(get(spec).ascent(moved, estimator), before[:, order], rtol=1e-9, least=1e-16)


@given(world=worlds())
@settings(max_examples=50, deadline=None)
def test_jsd_tends_to_its_ends(world):
    student, teacher, sampled, _ = world
    batch = NodeBatch.from_logits(student, teacher, sampled)
    gap = np.abs(batch.log_p_NS - batch.log_q_NS).max()
    assume(0.01 < gap < 5)
    # (1 - beta) log(M/P) is beta (Q/P - 1) at first order, and (1 - beta) r at the other end.
    end = 1e-6 * float(np.exp(-gap))
    forward = get("gkd:beta=0").ascent(batch)
    close(GKD(beta=end).ascent(batch) / end, forward, rtol=1e-3)
    reverse = get("gkd:beta=1").ascent(batch)
    high = 1.0 - end
    close(GKD(beta=high).ascent(batch) / (1.0 - high), reverse, rtol=1e-3)


@pytest.mark.parametrize(
    ("truncated", "whole"),
    [
        ("opd:top_k={k}", "gkd:beta=1"),
        ("opd:top_k={k},support=teacher", "gkd:beta=1"),
        ("opd:top_k={k},support=intersection,norm=tail", "gkd:beta=1"),
        ("opd:top_k={k},support=union,norm=none", "gkd:beta=1"),
        ("opd:top_k={k},norm=none,stop_gradient=true", "gkd:beta=1"),
        ("opsd:top_k={k},beta=0.5,clip=0", "gkd:beta=0.5,temperature=1.1"),
        ("opsd:top_k={k},clip=0,temperature=1", "gkd:beta=0"),
        ("trl/sdft:top_k={k},per=token", "gkd"),
        ("verl/reverse_kl_topk:top_k={k}", "gkd:beta=1"),
        ("verl/forward_kl_topk_tail:top_k={k}", "gkd:beta=0"),
        ("tinker/sdft:top_k={k},skip_first=0", "gkd:beta=0"),
        ("nemo/distillation:top_k={k},kl_type=reverse", "gkd:beta=1"),
        ("roll/distill:top_k={k}", "gkd:beta=0"),
        ("trl/sdpo:top_k={k},alpha=0.3", "gkd:beta=0.3"),
        ("trl/server_distillation:beta=0,top_k={k}", "gkd:beta=0"),
        ("trl/server_distillation:beta=0,top_k={k},tail=false", "gkd:beta=0"),
        ("verl/forward_kl_topk:top_k={k}", "gkd:beta=0"),
        ("thunlp/opd:top_k={k}", "gkd:beta=1"),
        ("tinker/sdft_reverse:top_k={k}", "gkd:beta=1"),
    ],
)
@given(world=worlds())
@settings(max_examples=20, deadline=None)
def test_top_k_of_the_whole_vocabulary_is_the_full_form(truncated, whole, world):
    student, teacher, sampled, _ = world
    batch = NodeBatch.from_logits(student, teacher, sampled)
    p, q = np.exp(batch.log_p_NS), np.exp(batch.log_q_NS)
    # The 1e-7 by which TRL keeps a tail and rounding in a loss near 0 are not the matter here.
    assume((p * (1 - p)).max() > 1e-6)
    assume(np.abs(q - p).max() > 1e-4)
    found = get(truncated.format(k=student.shape[1])).ascent(batch)
    if "server" in truncated and "tail=false" not in truncated:
        return  # its clamp is tested against TRL itself
    close(found, get(whole).ascent(batch), rtol=1e-6)


ONE_TOKEN = [
    *(s for s in SPECS if isinstance(get(s), SampledToken) and get(s).needs <= {"teacher"}),
    "trl/server_distillation:beta=0.4",
    "trl/server_distillation:beta=0.4,tail=false",
    "trl/iw_opd",
    "trl/async_distillation:top_k=2",
    "trl/async_distillation:top_k=2,tail=false",
]


@pytest.mark.parametrize("spec", ONE_TOKEN)
@given(world=worlds())
@settings(max_examples=20, deadline=None)
def test_expected_is_the_average_of_single_samples(spec, world):
    student, teacher, sampled, _ = world
    base = full(student, teacher, sampled)
    method = get(spec)
    drawn_at = getattr(method, "sampling_temperature", 0.0) or getattr(method, "temperature", 1.0)
    p = base.at(drawn_at).p_NS
    mean, square = np.zeros(student.shape), np.zeros(student.shape[0])
    for token in range(student.shape[1]):
        batch = replace(base, sampled_N=np.full(student.shape[0], token))
        single = np.nan_to_num(method.ascent(batch, "sampled"))
        mean += p[:, token, None] * single
        square += p[:, token] * (single**2).sum(axis=1)
    expected = method.direction(base)
    fine = expected.reason_N == ""
    scale = np.sqrt(square)[:, None] * np.ones(student.shape[1])
    assert (np.abs(np.nan_to_num(expected.ascent_NS) - mean) <= 1e-9 * scale + 1e-12).all()
    norm = (mean**2).sum(axis=1)
    fine &= norm > 1e-8 * square
    ratio = method.variance_ratio(base)[fine]
    np.testing.assert_allclose(ratio, square[fine] / norm[fine] - 1.0, rtol=1e-5, atol=1e-5)


def futures(seed, vocab):
    """One continuation per token of one node, and the spine that each would have been."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, 5, size=vocab)
    stop = np.cumsum(length)
    rolled = Continuations(
        node_K=np.zeros(vocab, dtype=np.int64),
        slot_K=np.arange(vocab),
        reward_K=rng.integers(0, 2, size=vocab).astype(np.float64),
        half_K=np.zeros(vocab, dtype=np.int64),
        start_K=stop - length,
        stop_K=stop,
        log_ratio_T=rng.normal(size=max(int(stop[-1]), 1)),
    )
    return rolled, rng.normal(size=3)


def spine_after(token, rolled, before, own, base):
    later = rolled.log_ratio_T[rolled.start_K[token] : rolled.stop_K[token]]
    ratio = np.concatenate([before, [own], later])
    return SpineView(
        begin_N=np.zeros(1, dtype=np.int64),
        at_N=np.full(1, 3),
        end_N=np.full(1, ratio.size),
        reward_N=rolled.reward_K[[token]],
        group_mean_N=np.full(1, base),
        log_ratio_T=ratio,
    )


@pytest.mark.parametrize(
    ("spec", "share"),
    [
        ("minillm", 1.0),
        ("minillm:gamma=0.9,length_norm=true", 1.0),
        ("minillm:gamma=0.5,single_step=false", 1.0),
        ("trl/minillm:gamma=0.8", 1.0),
        ("trl/minillm:gamma=1", 1.0),
        ("trl/minillm:gamma=0.8,length_norm=false", 1.0),
        ("lmops/minillm:whiten=false", 1.0),
        ("lmops/minillm:whiten=false,alpha=0", 1.0),
        ("dr_grpo:group=8", 7 / 8),
        ("swift/rlsd", 7 / 8),
        ("swift/rlsd:mix=1,clip=0.5,negative_only=true", 7 / 8),
    ],
)
@given(world=worlds(least=3), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_expected_is_the_average_over_tokens_and_their_futures(spec, share, world, seed):
    student, teacher, _, _ = world
    student, teacher = student[:1], teacher[:1]
    vocab = student.shape[1]
    rolled, before = futures(seed, vocab)
    method = get(spec)
    plain = NodeBatch.from_logits(student, teacher, [0])
    p, q = np.exp(plain.log_p_NS[0]), np.exp(plain.log_q_NS[0])
    alpha = getattr(method, "alpha", 0.0)
    proposal = (1.0 - alpha) * p + alpha * q
    value = float(p @ rolled.reward_K)
    mean, deterministic = np.zeros(vocab), 0.0
    for token in range(vocab):
        own = plain.log_q_NS[0, token] - plain.log_p_NS[0, token]
        spine = spine_after(token, rolled, before, own, value)
        batch = NodeBatch.from_logits(student, teacher, [token], spines=spine)
        single = np.nan_to_num(method.ascent(batch, "sampled")[0])
        mean += proposal[token] * single
        deterministic += proposal[token] * np.abs(single).max()
    spine = spine_after(0, rolled, before, 0.0, value)
    batch = NodeBatch.from_logits(student, teacher, [0], continuations=rolled, spines=spine)
    expected = np.nan_to_num(method.ascent(batch)[0])
    assert np.abs(expected - share * mean).max() <= 1e-10 * deterministic + 1e-12


@pytest.mark.parametrize("beta", [0.0, 1.0])
@given(world=worlds(least=3))
@settings(max_examples=50, deadline=None)
def test_restriction_is_the_direction_of_the_renormalised_distributions(beta, world):
    """For the reverse KL exactly; for the forward KL up to the ratio of the two masses."""
    student, teacher, sampled, rng = world
    batch = NodeBatch.from_logits(student, teacher, sampled)
    candidates = rng.random(student.shape) < 0.6
    candidates[:, :2] = True
    ascent = get(f"gkd:beta={beta}").ascent(batch)
    found = restrict(ascent, batch.log_p_NS, candidates)
    for node in range(student.shape[0]):
        kept = candidates[node]
        small = NodeBatch.from_logits(student[[node]][:, kept], teacher[[node]][:, kept])
        wanted = get(f"gkd:beta={beta}").ascent(small)
        if np.isnan(found[node]).any() or np.isnan(wanted).any():
            continue
        mass_p = np.exp(batch.log_p_NS[node, kept]).sum()
        mass_q = np.exp(batch.log_q_NS[node, kept]).sum()
        assume(mass_p > 1e-8)
        factor = 1.0 if beta == 1.0 else mass_q / mass_p
        # What was rounded off next to a large component stays lost after restricting.
        noise = 1e-14 * np.abs(ascent[node]).max() / mass_p
        gap = np.abs(found[node, kept] - factor * wanted[0]).max()
        assert gap <= 1e-7 * np.abs(factor * wanted[0]).max() + noise
        assert (found[node, ~kept] == 0.0).all()


@given(world=worlds(least=3))
@settings(max_examples=30, deadline=None)
def test_restriction_does_not_see_unvisited_slots(world):
    """The mean that stands in for unvisited futures drops out on the visited set."""
    student, teacher, sampled, _ = world
    batch = full(student, teacher, sampled)
    rolled = batch.continuations
    visited = np.zeros(student.shape, dtype=bool)
    visited[rolled.node_K, rolled.slot_K] = True
    found = restrict(get("minillm").ascent(batch), batch.log_p_NS, visited)
    value = np.zeros(student.shape)
    for node, slot in zip(*np.nonzero(visited), strict=True):
        mine = (rolled.node_K == node) & (rolled.slot_K == slot)
        value[node, slot] = np.mean(
            [
                rolled.log_ratio_T[a:b].sum()
                for a, b in zip(rolled.start_K[mine], rolled.stop_K[mine], strict=True)
            ]
        )
    f = np.where(visited, batch.log_q_NS - batch.log_p_NS + value, 0.0)
    share = np.where(visited, np.exp(batch.log_p_NS), 0.0)
    assume((share.sum(axis=1) > 1e-6).all())
    share /= share.sum(axis=1, keepdims=True)
    wanted = share * (f - (share * f).sum(axis=1, keepdims=True))
    fine = ~np.isnan(found).any(axis=1)
    gap = np.abs(found - wanted)[fine]
    assert (gap <= 1e-7 * np.abs(wanted[fine]).max(axis=1, keepdims=True) + 1e-9).all()


@given(world=worlds(), width=st.floats(0.1, 3.0))
@settings(max_examples=30, deadline=None)
def test_a_teacher_that_tilts_by_value_is_parallel_to_the_ideal(world, width):
    student, _, _, rng = world
    value = rng.random(student.shape)
    batch = NodeBatch.from_logits(student, student + value / width)
    p = np.exp(batch.log_p_NS)
    ideal = p * (value - (p * value).sum(axis=1, keepdims=True))
    found = get("gkd:beta=1").ascent(batch)
    fine = ~np.isnan(found).any(axis=1) & (np.abs(ideal).max(axis=1) > 1e-8)
    np.testing.assert_allclose(found[fine] * width, ideal[fine], rtol=1e-5, atol=1e-9)
