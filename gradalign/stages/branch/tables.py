"""What the branch stage writes: continuations, where each counts, branches and nodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from gradalign.alignment.ideal import ideal_gradient, renormalise, unbiased_norm2
from gradalign.branching import NodeEstimates
from gradalign.stages.base import Run
from gradalign.stages.branch.question import QuestionWork
from gradalign.stages.student import ResponseReader
from gradalign.store.table_builder import Rows


def write_branch_tables(
    run: Run, tools: ResponseReader, shard: str, work: list[QuestionWork]
) -> Counter[str]:
    """Write a shard's tables, `nodes` last; return counts for run.json."""
    rows = {name: Rows(name) for name in ("continuations", "passes", "branches", "nodes")}
    num_continuations = 0
    counts: Counter[str] = Counter()
    for item in work:
        table = item.branching.estimates()
        _add_continuations(rows["continuations"], item)
        _add_passes(rows["passes"], item, table, num_continuations)
        _add_branches(rows["branches"], tools, item, table)
        _add_nodes(rows["nodes"], run, item, table)
        num_continuations += len(item.results)
        counts.update(
            continuations=len(item.results),
            truncated_continuations=sum(r.finish_reason == "length" for r in item.results),
            verifier_failures=sum(r.verifier_error != "" for r in item.results),
            continuation_tokens=sum(len(r.token_ids) for r in item.results),
            branches=int(table.mask_NC.sum()),
        )
    for name in ("continuations", "passes", "branches", "nodes"):
        run.folder.write_table(name, shard, rows[name].table_of())
    return counts


def _node_ids(item: QuestionWork) -> list[str]:
    """Return the ids of the chosen nodes, in order of the plans."""
    return [f"{item.spines[plan.spine].spine_id}/{plan.position}" for plan in item.branching.plans]


def _add_continuations(rows: Rows, item: QuestionWork) -> None:
    nodes = item.branching.tree.nodes
    if not item.results:
        return
    where = [nodes[result.request.node] for result in item.results]
    spine_ids = [item.spines[node.spine].spine_id for node in where]
    rows.add(
        len(item.results),
        question_id=item.stored.question.id,
        spine_id=spine_ids,
        node_id=[f"{spine}/{node.depth}" for spine, node in zip(spine_ids, where, strict=True)],
        position=[node.depth for node in where],
        candidate_id=[
            node.token_ids[result.request.slot]
            for node, result in zip(where, item.results, strict=True)
        ],
        index=[result.request.number for result in item.results],
        round=[result.round_index for result in item.results],
        token_ids=[result.token_ids for result in item.results],
        reward=[result.reward for result in item.results],
        finish_reason=[result.finish_reason for result in item.results],
        verifier_error=[result.verifier_error for result in item.results],
        replaces=[result.replaces for result in item.results],
    )


def _add_passes(rows: Rows, item: QuestionWork, table: NodeEstimates, first: int) -> None:
    """Write a row per (chosen node, continuation through it); equal prefixes share theirs."""
    passes = item.branching.passes()
    half_K = np.array([stored.half for stored in item.branching.continuations], dtype=np.int64)
    # Those whose verification failed are in the table, and count nowhere.
    row_of = {result.request: row for row, result in enumerate(item.results)}
    row_K = np.array([row_of[request] for request in item.branching.observed], dtype=np.int64)
    order = np.argsort(passes.node, kind="stable")
    starts = np.searchsorted(passes.node[order], np.arange(len(item.branching.tree.nodes) + 1))
    mine, node, token = [], [], []
    for n, tree_node in enumerate(table.tree_node_N.tolist()):
        here = order[starts[tree_node] : starts[tree_node + 1]]
        slots = table.slot_NC[n]
        token_of = np.full(len(item.branching.tree.nodes[tree_node].token_ids), -1, dtype=np.int64)
        token_of[slots[slots >= 0]] = table.token_ids_NC[n][slots >= 0]
        tokens = token_of[passes.slot[here]]
        mine.append(here[tokens >= 0])
        token.append(tokens[tokens >= 0])
        node.append(np.full(len(mine[-1]), n))
    if not mine:
        return
    mine_M, node_M = np.concatenate(mine), np.concatenate(node)
    rows.add(
        len(mine_M),
        question_id=item.stored.question.id,
        node_id=pa.array(_node_ids(item)).take(pa.array(node_M)),
        candidate_id=np.concatenate(token),
        continuation=first + row_K[passes.continuation[mine_M]],
        offset=passes.offset[mine_M],
        half=half_K[passes.continuation[mine_M]],
    )


def _add_branches(
    rows: Rows, tools: ResponseReader, item: QuestionWork, table: NodeEstimates
) -> None:
    plans = item.branching.plans
    if not plans:
        return
    ideal_NC = ideal_gradient(table.prob_NC, table.value_NC, table.mask_NC)
    there_NC = table.token_ids_NC >= 0
    node_O = np.nonzero(there_NC)[0]
    at = pa.array(node_O)
    token_O = table.token_ids_NC[there_NC]
    tokens = sorted(set(token_O.tolist()))
    text_of = dict(zip(tokens, tools.token_texts(tokens), strict=True))
    rows.add(
        len(node_O),
        question_id=item.stored.question.id,
        spine_id=pa.array([item.spines[plan.spine].spine_id for plan in plans]).take(at),
        position=np.array([plan.position for plan in plans])[node_O],
        node_id=pa.array(_node_ids(item)).take(at),
        token_id=token_O,
        token=[text_of[token] for token in token_O.tolist()],
        student_prob=table.prob_NC[there_NC],
        why=[why for candidates in item.candidates for why in candidates.why_C],
        num_continuations=table.num_NC[there_NC],
        num_reused=table.num_reused_NC[there_NC],
        mean_reward=table.mean_reward_NC[there_NC],
        var_reward=table.var_reward_NC[there_NC],
        value=table.value_NC[there_NC],
        value_var=table.var_NC[there_NC],
        value_half0=table.half_value_HNC[0][there_NC],
        value_half1=table.half_value_HNC[1][there_NC],
        ideal=np.where(table.mask_NC, ideal_NC, np.nan)[there_NC],
    )


def _add_nodes(rows: Rows, run: Run, item: QuestionWork, table: NodeEstimates) -> None:
    plans = item.branching.plans
    if not plans:
        return
    mask_NC = table.mask_NC  # a node without a choice needs no continuation and has no value
    measured_N = mask_NC.any(axis=1)
    tilde_NC = renormalise(table.prob_NC, mask_NC)
    value_NC = np.where(mask_NC, table.value_NC, 0.0)
    var_NC = np.where(mask_NC, table.var_NC, 0.0)
    ideal_NC = ideal_gradient(table.prob_NC, table.value_NC, mask_NC)
    spines = [item.spines[plan.spine] for plan in plans]
    sampled_N = np.array(
        [int(spine.token_ids[plan.position]) for plan, spine in zip(plans, spines, strict=True)]
    )
    rows.add(
        len(plans),
        question_id=item.stored.question.id,
        spine_id=[spine.spine_id for spine in spines],
        position=[plan.position for plan in plans],
        node_id=_node_ids(item),
        correct=[spine.correct for spine in spines],
        relative_position=[
            plan.position / max(len(spine.token_ids) - 1, 1)
            for plan, spine in zip(plans, spines, strict=True)
        ],
        inclusion_prob=table.inclusion_prob_N,
        sampled_token_id=sampled_N,
        special=np.isin(sampled_N, run.resolved.special_token_ids),
        student_entropy=item.entropies,
        value=np.where(measured_N, (tilde_NC * value_NC).sum(axis=1), np.nan),
        value_se=np.where(
            measured_N, np.sqrt(np.maximum((tilde_NC**2 * var_NC).sum(axis=1), 0.0)), np.nan
        ),
        ideal_norm2=unbiased_norm2(table.prob_NC, table.value_NC, table.var_NC, mask_NC),
        coverage=table.prob_NC.sum(axis=1),
        num_candidates=(table.token_ids_NC >= 0).sum(axis=1),
        num_continuations=table.num_NC.sum(axis=1) - table.num_reused_NC.sum(axis=1),
        truncated_share=table.num_truncated_NC.sum(axis=1)
        / np.maximum(table.num_NC.sum(axis=1), 1),
        other_allocation=item.other_allocation,
        flat=~(np.abs(ideal_NC).max(axis=1, initial=0.0) > 1e-12),
    )
