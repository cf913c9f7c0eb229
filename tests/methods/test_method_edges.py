"""Extreme and degenerate distributions: no crash, and no NaN or infinity without a reason."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from gradalign.errors import UsageError
from gradalign.methods import NodeBatch, get, restrict
from gradalign.methods.returns import discounted_sums, geometric_sum
from tests.methods.made_up import error, logits, scatter, thin, with_rollouts
from tests.methods.test_method_properties import SPECS


def logs(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float64))


def run(spec, student, teacher, sampled):
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    method = get(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [method.direction(batch, estimator) for estimator in ("expected", "sampled")]
        method.variance_ratio(batch)
    for result in results:
        assert (np.isfinite(result.ascent_NS).all(axis=1) == (result.reason_N == "")).all()
        assert (np.isnan(result.ascent_NS).all(axis=1) == (result.reason_N != "")).all()
    return results


EXTREMES = {
    "tiny student": ([0.7, 0.3 - 1e-30, 1e-30, 1e-300], [0.2, 0.2, 0.3, 0.3]),
    "impossible for the teacher": ([0.4, 0.3, 0.2, 0.1], [0.0, 0.5, 0.3, 0.2]),
    "impossible for the student": ([0.0, 0.5, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]),
    "impossible for both": ([0.0, 0.5, 0.3, 0.2], [0.0, 0.2, 0.3, 0.5]),
    "certain student": ([1.0, 0.0, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1]),
    "certain teacher": ([0.4, 0.3, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0]),
    "opposite": ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]),
    "identical": ([0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(spec, name):
    student, teacher = (logs([row]) for row in EXTREMES[name])
    for sampled in (0, 1):
        run(spec, student, teacher, [sampled])


@pytest.mark.parametrize("spec", SPECS)
def test_one_token_vocabulary(spec):
    for result in run(spec, np.zeros((2, 1)), np.ones((2, 1)), [0, 0]):
        assert (result.reason_N != "").all()
        assert not any("undefined" in reason for reason in result.reason_N)


@pytest.mark.parametrize(
    "spec", ["gkd", "gkd:beta=0", "gkd:beta=1", "opsd", "opd", "trl/gkd", "nemo/distillation"]
)
def test_identical_distributions_are_zero_with_a_reason(spec):
    student, _, sampled = logits("far", nodes=8, vocab=20)
    # The same distribution by other logits: rounding must not become a direction.
    result = get(spec).direction(NodeBatch.from_logits(student, student + 3.7, sampled))
    assert all(reason.startswith("zero_method:") for reason in result.reason_N)


def test_tiny_probabilities_keep_their_precision():
    student = logs([[0.7, 0.3, 1e-30, 1e-200]])
    teacher = logs([[0.2, 0.2, 0.3, 0.3]])
    batch = NodeBatch.from_logits(student, teacher)
    p, q = np.exp(batch.log_p_NS[0]), np.exp(batch.log_q_NS[0])
    r = np.log(q) - np.log(p)
    found = get("gkd:beta=1").ascent(batch)[0]
    np.testing.assert_allclose(found[2:], p[2:] * (r[2:] - p @ r), rtol=1e-12)
    assert found[2] > 0
    assert found[3] > 0


def test_a_nearly_certain_student_keeps_its_direction():
    """1 - P of 1e-18, which is no number below 1: the direction is the small tokens'."""
    student, teacher = np.array([[42.0, 0.0, 1.0]]), np.array([[0.0, 2.0, 1.0]])
    batch = NodeBatch.from_logits(student, teacher)
    found = get("gkd:beta=1").ascent(batch)[0]
    p = np.exp(batch.log_p_NS[0])
    r = batch.log_q_NS[0] - batch.log_p_NS[0]
    small = p[1:] * (r[1:] - r[0])
    np.testing.assert_allclose(found, [-small.sum(), *small], rtol=1e-10)


def test_reasons_of_sets():
    student = np.array([[9.0, 8.0, 0.0, 0.0], [9.0, 0.0, 1.0, 2.0]])
    teacher = np.array([[0.0, 0.5, 9.0, 8.0], [9.0, 0.0, 2.0, 1.0]])
    batch = NodeBatch.from_logits(student, teacher)
    both = get("opd:top_k=2,support=intersection").direction(batch)
    assert "empty" in both.reason_N[0]
    assert "one token" in both.reason_N[1]
    assert get("opd:top_k=1").direction(batch).reason_N[0].startswith("zero_method:one token")
    assert get("opd:top_k=1,norm=tail").direction(batch).reason_N[0] == ""


def test_infinite_directions_are_undefined_not_zero():
    student, teacher = logs([[0.4, 0.3, 0.3]]), logs([[0.0, 0.5, 0.5]])
    batch = NodeBatch.from_logits(student, teacher, [0])
    for estimator in ("expected", "sampled"):
        assert get("opd").direction(batch, estimator).reason_N[0].startswith("undefined_method:")
    assert get("gkd:beta=0.5").direction(batch).reason_N[0] == ""
    assert get("gkd:beta=0").direction(batch).reason_N[0] == ""


def test_unknown_sampled_token():
    student, teacher, _ = logits("far", nodes=3, vocab=5)
    batch = NodeBatch.from_logits(student, teacher, [0, -1, 2])
    result = get("opd").direction(batch, "sampled")
    assert list(result.reason_N != "") == [False, True, False]
    with pytest.raises(UsageError, match="sampled token"):
        get("opd").ascent(NodeBatch.from_logits(student, teacher), "sampled")


def test_missing_inputs_are_named():
    student, teacher, sampled = logits("far", nodes=3, vocab=5)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    for spec, word in (
        ("minillm", "continuations"),
        ("dr_grpo", "targeted rollouts"),
        ("trl/iw_opd", "spines"),
    ):
        with pytest.raises(UsageError, match=word):
            get(spec).ascent(batch)
    full = with_rollouts(batch)
    unscored = replace(full, continuations=replace(full.continuations, log_ratio_T=np.zeros(0)))
    with pytest.raises(UsageError, match="teacher's scores"):
        get("minillm").ascent(unscored)
    get("dr_grpo").ascent(unscored)


def test_shapes_are_checked():
    student, teacher, _ = logits("far", nodes=3, vocab=5)
    with pytest.raises(ValueError, match=r"\(3, 5\) and \(3, 4\)"):
        NodeBatch.from_logits(student, teacher[:, :4])
    with pytest.raises(ValueError, match="sampled"):
        NodeBatch.from_logits(student, teacher, [1, 2])
    with pytest.raises(ValueError, match="NaN"):
        NodeBatch.from_logits(student, np.full((3, 5), np.nan))
    batch = NodeBatch.from_logits(student, teacher)
    with pytest.raises(ValueError, match="log_tail_p_N"):
        replace(batch, log_tail_p_N=np.zeros(2))
    with pytest.raises(ValueError, match="candidates"):
        restrict(student, teacher, np.ones((3, 4), dtype=bool))


# Sparse batches


def test_top_k_beyond_what_was_kept():
    student, teacher, sampled = logits("far", nodes=4, vocab=50)
    batch = thin(NodeBatch.from_logits(student, teacher, sampled), 8)
    with pytest.raises(UsageError, match="only 8"):
        get("opd:top_k=9").ascent(batch)
    get("opd:top_k=8").ascent(batch)


def test_ties_are_broken_by_slot():
    logits_NS = np.array([[1.0, 2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    nodes = NodeBatch.from_logits(logits_NS, logits_NS).at(1.0)
    wanted = [[True, True, True, False, False], [True, True, True, False, False]]
    assert nodes.top("student", 3).tolist() == wanted
    assert nodes.top("teacher", 4).sum(axis=1).tolist() == [4, 4]


# What depends on P and Q of the tail only through their sums, or through r of the tail.
EXACT_UP_TO_TAIL = {
    "gkd:beta=0": 1e-10,
    "opd:top_k=8": 1e-10,
    "opd:top_k=8,norm=tail": 1e-10,
    "opd:top_k=8,norm=none": 1e-10,
    "opd:top_k=8,support=union": 1e-10,
    "tinker/sdft_reverse:top_k=8": 1e-10,
    "thunlp/opd:top_k=8": 1e-10,
    "verl/forward_kl_topk:top_k=8": 1e-10,
    "trl/sdpo:top_k=8,tail=true": 1e-10,
    "trl/server_distillation:beta=0,top_k=8": 1e-10,
    "opsd:top_k=8": 1e-10,
    "trl/sdft:top_k=8,per=token": 1e-10,
    "verl/reverse_kl_topk:top_k=8": 1e-10,
    "verl/forward_kl_topk_tail:top_k=8": 1e-10,
    "tinker/sdft:top_k=8,skip_first=0": 1e-10,
    "nemo/distillation:top_k=8": 1e-10,
    "roll/distill:top_k=8,objective=adaptive_kl": 1e-10,
    # Here the tail is one bucket instead of its tokens: an error of the order of the tail's
    # mass times the spread of its log ratios.
    "gkd:beta=0.5": 0.04,
    "gkd:beta=1": 0.05,
    "gkd:beta=1,temperature=1.7": 0.2,
    "opsd:beta=0.5,clip=0": 0.05,
    "swift/sdar": 0.2,
    "opd": 0.05,
    "trl/server_distillation": 0.02,
    "trl/async_distillation": 0.02,
    "trl/server_distillation:beta=0.5": 0.02,
    "verl/k2": 0.05,
    "verl/k3": 0.05,
    "verl/abs": 0.2,
}


@pytest.mark.parametrize("spec", EXACT_UP_TO_TAIL)
def test_sparse_against_dense(spec):
    """The kept slots' directions, with two thirds of the vocabulary in the tail."""
    rng = np.random.default_rng(1)
    student = rng.normal(size=(32, 120)) * 3.0
    teacher = student + rng.normal(size=student.shape)
    dense = NodeBatch.from_logits(student, teacher, student.argmax(axis=1))
    sparse = thin(dense, 30)
    mass = np.exp(sparse.log_tail_p_N)
    assert 0.0 < mass.max() < 0.3
    found = scatter(get(spec).ascent(sparse), sparse.ids_NS, 120)
    kept = ~np.isnan(found)
    wanted = np.where(kept, get(spec).ascent(dense), 0.0)
    assert error(np.where(kept, found, 0.0), wanted) < EXACT_UP_TO_TAIL[spec]
    ratio = get(spec).variance_ratio(sparse)
    whole = get(spec).variance_ratio(dense)
    limit = 1e-6 if EXACT_UP_TO_TAIL[spec] == 1e-10 else 0.5
    np.testing.assert_allclose(ratio, whole, rtol=limit, atol=1e-6)


@pytest.mark.parametrize("spec", [s for s, limit in EXACT_UP_TO_TAIL.items() if limit > 1e-3])
def test_the_error_of_the_tail_falls_as_more_is_kept(spec):
    rng = np.random.default_rng(1)
    student = rng.normal(size=(32, 120)) * 3.0
    dense = NodeBatch.from_logits(student, student + rng.normal(size=student.shape))
    wanted, errors = get(spec).ascent(dense), []
    for keep in (20, 40, 80, 120):
        sparse = thin(dense, keep)
        found = scatter(get(spec).ascent(sparse), sparse.ids_NS, 120)
        kept = ~np.isnan(found)
        errors.append(error(np.where(kept, found, 0.0), np.where(kept, wanted, 0.0)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


@pytest.mark.parametrize("spec", EXACT_UP_TO_TAIL)
def test_padding_is_zero_and_changes_nothing(spec):
    student, teacher, sampled = logits("far", nodes=6, vocab=40)
    batch = thin(NodeBatch.from_logits(student, teacher, sampled), 8)
    extra = ((0, 0), (0, 3))
    wide = replace(
        batch,
        log_p_NS=np.pad(batch.log_p_NS, extra, constant_values=-np.inf),
        log_q_NS=np.pad(batch.log_q_NS, extra, constant_values=-np.inf),
        mask_NS=np.pad(batch.mask_NS, extra),
        ids_NS=np.pad(batch.ids_NS, extra, constant_values=-1),
    )
    before, after = get(spec).ascent(batch), get(spec).ascent(wide)
    np.testing.assert_allclose(after[:, :-3], before, rtol=1e-12, atol=1e-16)
    assert (after[:, -3:] == 0.0).all()


@pytest.mark.parametrize("temperature", [1.1, 1.7])
def test_tempering_is_exact_with_the_powers_of_the_tail(temperature):
    student, teacher, sampled = logits("far", nodes=12, vocab=90)
    dense = NodeBatch.from_logits(student, teacher, sampled)
    sparse = thin(dense, 10)
    tempered = NodeBatch.from_logits(student / temperature, teacher / temperature)
    for side in ("log_p_NS", "log_q_NS"):
        found = scatter(getattr(sparse.at(temperature), side), sparse.ids_NS, 90)
        wanted = getattr(tempered, side)
        kept = np.isfinite(found)
        np.testing.assert_allclose(found[kept], wanted[kept], rtol=1e-10)
        np.testing.assert_allclose(getattr(dense.at(temperature), side), wanted, rtol=1e-10)
    without = replace(sparse, tail_powers={}).at(temperature)
    # Jensen: an evenly spread tail has the largest power, and so takes too much.
    assert (without.log_tail_p_N > sparse.at(temperature).log_tail_p_N).all()
    total = np.exp(without.log_p_NS).sum(axis=1) + np.exp(without.log_tail_p_N)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_temperatures_that_want_exact_tails():
    assert get("opsd").temperatures == (1.1,)
    assert get("gkd:temperature=1.7").temperatures == (1.7,)
    assert get("gkd").temperatures == ()


def test_restriction_of_too_few_candidates_is_nan():
    student, teacher, _ = logits("far", nodes=3, vocab=5)
    batch = NodeBatch.from_logits(student, teacher)
    candidates = np.zeros((3, 5), dtype=bool)
    candidates[0, 1] = True
    candidates[1, [1, 2]] = True
    ascent = get("gkd").ascent(batch)
    found = restrict(ascent, batch.log_p_NS, candidates)
    assert np.isnan(found[[0, 2]]).all()
    assert np.isfinite(found[1]).all()
    ascent[1] = np.nan
    assert np.isnan(restrict(ascent, batch.log_p_NS, candidates)).all()


# Discounted sums


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.999999, 1.0])
def test_discounted_sums_by_loops(gamma):
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    start = rng.integers(0, 480, size=200)  # overlapping windows
    stop = start + rng.integers(0, 20, size=200)
    wanted = [
        sum(gamma**i * r for i, r in enumerate(values[a:b]))
        for a, b in zip(start, stop, strict=True)
    ]
    np.testing.assert_allclose(
        discounted_sums(values, start, stop, gamma), wanted, rtol=1e-12, atol=1e-13
    )


def test_discounted_sums_do_not_leak(monkeypatch):
    monkeypatch.setattr("gradalign.methods.returns.WINDOW_TOKENS", 64)
    values = np.concatenate([np.full(100, 1.0), [-np.inf], np.full(100_000, 1e-3), [1e300]])
    start, stop = np.array([0, 100, 101, 5]), np.array([100, 101, 100_101, 5])
    found = discounted_sums(values, start, stop, 1.0)
    np.testing.assert_allclose(found, [100.0, -np.inf, 100.0, 0.0], rtol=1e-12)
    long = discounted_sums(np.ones(200_000), np.zeros(1, int), np.full(1, 200_000), 0.9)
    np.testing.assert_allclose(long, 10.0)
    np.testing.assert_allclose(geometric_sum(0.9, np.array([0, 2])), [1.0, 2.71])


def test_an_infinite_future_is_confined_to_its_node():
    student, teacher, sampled = logits("far", nodes=4, vocab=6)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    rolled = batch.continuations
    used = np.flatnonzero((rolled.node_K == 1) & (rolled.stop_K > rolled.start_K))[0]
    ratio = rolled.log_ratio_T.copy()
    ratio[rolled.start_K[used]] = -np.inf
    changed = replace(batch, continuations=replace(rolled, log_ratio_T=ratio))
    before, after = get("minillm").ascent(batch), get("minillm").direction(changed)
    assert after.reason_N[1].startswith("undefined_method:")
    np.testing.assert_array_equal(after.ascent_NS[[0, 2, 3]], before[[0, 2, 3]])


def test_nodes_without_continuations_have_a_reason():
    student, teacher, sampled = logits("far", nodes=4, vocab=6)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    rolled = batch.continuations
    keep = rolled.node_K != 2
    names = ("node_K", "slot_K", "reward_K", "half_K", "start_K", "stop_K")
    fewer = replace(rolled, **{name: getattr(rolled, name)[keep] for name in names})
    for spec in ("minillm", "dr_grpo", "lmops/minillm", "trl/minillm:gamma=0.5"):
        reason = get(spec).direction(replace(batch, continuations=fewer)).reason_N
        assert reason[2] == "undefined_method:no continuation passed the node"
        assert (reason[[0, 1, 3]] == "").all()


def test_flat_rewards_have_no_direction():
    student, teacher, sampled = logits("far", nodes=4, vocab=6)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    rolled = replace(batch.continuations, reward_K=np.full(batch.continuations.node_K.shape, 0.3))
    result = get("dr_grpo").direction(replace(batch, continuations=rolled))
    assert (result.reason_N == "zero_method:flat, all rewards are equal").all()


# Controls


def test_random_does_not_depend_on_the_rest_of_the_batch():
    student, teacher, sampled = logits("far", nodes=6, vocab=9)
    whole = get("random").ascent(NodeBatch.from_logits(student, teacher, sampled))
    part = get("random").ascent(NodeBatch.from_logits(student[3:], teacher[3:], sampled[3:]))
    np.testing.assert_array_equal(whole[3:], part)
    other = get("random:seed=1").ascent(NodeBatch.from_logits(student, teacher, sampled))
    assert not np.allclose(whole, other)


def test_random_advantages_are_standard_and_independent():
    student = np.random.default_rng(0).normal(size=(400, 100))
    batch = NodeBatch.from_logits(student, student)
    first = get("random").draws(batch).mean_NS
    second = get("random:seed=7").draws(batch).mean_NS
    assert abs(first.mean()) < 0.02
    assert abs(first.var() - 1.0) < 0.02
    assert abs((first * second).mean()) < 0.02
    assert abs((first[:, 1:] * first[:, :-1]).mean()) < 0.02
    assert abs((first[1:] * first[:-1]).mean()) < 0.02


def test_uniform_negative_is_k1():
    student, teacher, sampled = logits("far", nodes=6, vocab=9)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    method = get("uniform_negative")
    assert method.needs == frozenset()
    np.testing.assert_array_equal(
        method.ascent(batch, "sampled"), get("verl/k1").ascent(batch, "sampled")
    )
    assert all(r.startswith("zero_method:") for r in method.direction(batch).reason_N)


def test_an_infinite_ratio_on_one_spine_leaves_the_others_weights():
    student, teacher, sampled = logits("far", nodes=4, vocab=6)
    batch = with_rollouts(NodeBatch.from_logits(student, teacher, sampled))
    ratio = batch.spines.log_ratio_T.copy()
    ratio[batch.spines.begin_N[0]] = -np.inf
    changed = replace(batch, spines=replace(batch.spines, log_ratio_T=ratio))
    before, after = get("trl/iw_opd").ascent(batch), get("trl/iw_opd").ascent(changed)
    np.testing.assert_array_equal(after[1:], before[1:])
