"""Made-up logits, continuations and spines for the tests of methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradalign.methods import Continuations, NodeBatch, SpineView

KINDS = ("near", "far", "peaked", "flat")


def logits(kind: str, nodes: int = 64, vocab: int = 200, seed: int = 0):
    """Student and teacher logits [nodes, vocab], and tokens drawn from the student."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    scale = {"near": 2.0, "far": 2.0, "peaked": 6.0, "flat": 0.1}[kind]
    apart = {"near": 0.05, "far": 3.0, "peaked": 1.0, "flat": 0.1}[kind]
    student = rng.normal(size=(nodes, vocab)) * scale
    teacher = student + rng.normal(size=(nodes, vocab)) * apart
    return student, teacher, draw(student, rng)


def draw(student, rng):
    """One token per node from softmax(student)."""
    return (student + rng.gumbel(size=student.shape)).argmax(axis=1)


def error(found, wanted):
    """Largest relative error of a node, in norm."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert not np.isnan(found).any()
    norm = np.linalg.norm(wanted, axis=1)
    assert (norm > 0).all()
    return float((np.linalg.norm(found - wanted, axis=1) / norm).max())


def with_rollouts(batch: NodeBatch, seed: int = 0, per_slot: int = 2) -> NodeBatch:
    """Add continuations from a few slots of every node, and a spine through every node."""
    rng = np.random.default_rng(seed)
    nodes = batch.num_nodes
    node_K, slot_K = [], []
    for node in range(nodes):
        valid = np.flatnonzero(batch.mask_NS[node] & (batch.log_p_NS[node] > -np.inf))
        chosen = valid[: max(2, valid.size // 2)]
        for slot in chosen:
            node_K += [node] * per_slot
            slot_K += [slot] * per_slot
    count = len(node_K)
    length_K = rng.integers(0, 7, size=count)
    stop_K = np.cumsum(length_K)
    continuations = Continuations(
        node_K=np.array(node_K),
        slot_K=np.array(slot_K),
        reward_K=rng.random(count).round(2),
        half_K=np.arange(count) % 2,
        start_K=stop_K - length_K,
        stop_K=stop_K,
        log_ratio_T=rng.normal(size=max(int(stop_K[-1]), 1)),
    )
    before, after = rng.integers(0, 5, size=nodes), rng.integers(0, 5, size=nodes)
    end_N = np.cumsum(before + after + 1)
    at_N = end_N - after - 1
    ratio = rng.normal(size=int(end_N[-1]))
    known = batch.sampled_N >= 0
    rows = np.arange(nodes)
    with np.errstate(invalid="ignore"):
        own = batch.log_q_NS[rows, batch.sampled_N] - batch.log_p_NS[rows, batch.sampled_N]
    ratio[at_N] = np.where(known & np.isfinite(own), own, ratio[at_N])
    spines = SpineView(
        begin_N=at_N - before,
        at_N=at_N,
        end_N=end_N,
        reward_N=rng.random(nodes).round(2),
        group_mean_N=rng.random(nodes).round(2),
        log_ratio_T=ratio,
    )
    return replace(batch, continuations=continuations, spines=spines)


def thin(batch: NodeBatch, keep: int) -> NodeBatch:
    """Keep both models' `keep` most probable tokens of a dense batch; the rest is the tail."""
    nodes, vocab = batch.log_p_NS.shape
    chosen = np.zeros((nodes, vocab), dtype=bool)
    for log_NS in (batch.log_p_NS, batch.log_q_NS):
        np.put_along_axis(chosen, np.argsort(-log_NS, axis=1)[:, :keep], True, axis=1)
    known = batch.sampled_N >= 0
    chosen[np.flatnonzero(known), batch.sampled_N[known]] = True
    width = int(chosen.sum(axis=1).max())
    ids = np.full((nodes, width), -1)
    sampled = np.full(nodes, -1)
    for node in range(nodes):
        kept = np.flatnonzero(chosen[node])
        ids[node, : kept.size] = kept
        if known[node]:
            sampled[node] = int(np.flatnonzero(kept == batch.sampled_N[node])[0])
    mask = ids >= 0

    def pick(log_NS):
        return np.where(mask, np.take_along_axis(log_NS, np.maximum(ids, 0), axis=1), -np.inf)

    def tail(log_NS):
        with np.errstate(divide="ignore"):
            return np.log(np.where(chosen, 0.0, np.exp(log_NS)).sum(axis=1))

    def powers(temperature):
        return tail(batch.log_p_NS / temperature), tail(batch.log_q_NS / temperature)

    return NodeBatch(
        log_p_NS=pick(batch.log_p_NS),
        log_q_NS=pick(batch.log_q_NS),
        mask_NS=mask,
        log_tail_p_N=tail(batch.log_p_NS),
        log_tail_q_N=tail(batch.log_q_NS),
        num_tail_N=vocab - chosen.sum(axis=1),
        ids_NS=ids,
        sampled_N=sampled,
        top_limit=keep,
        tail_powers={t: powers(t) for t in (1.1, 1.7)},
    )


def scatter(thin_NS, ids_NS, vocab):
    """Put sparse directions back into [nodes, vocab], NaN where not kept."""
    full = np.full((ids_NS.shape[0], vocab), np.nan)
    for node, ids in enumerate(ids_NS):
        full[node, ids[ids >= 0]] = thin_NS[node, ids >= 0]
    return full
