"""Ragged tables as padded arrays: what a shard's nodes look like to methods and estimators.

Axes: _N nodes, _S support, _C candidates, _K continuations, _T tokens (flat).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gradalign.estimates import Arm
from gradalign.methods.batch import Continuations, NodeBatch, SpineView
from gradalign.rounding import agreeing_rows, settled_ratios
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.continuations import STUDENT, student_label
from gradalign.stages.distributions import tempering
from gradalign.store.folder import RunFolder
from gradalign.store.shard import padded

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class NodeTable:
    """The nodes of a shard with what targeted rollouts found. Row n is the same node everywhere.

    Attributes:
        nodes: the table `nodes`.
        row_of: node id to row.
        token_NC: candidate ids, -1 at padding.
        prob_NC: the student's probability over the whole vocabulary.
        mask_NC: True where V was measured.
        value_NC, var_NC: V and its variance.
        half_value_HNC: V from each half of the continuations.
        chosen_NC: True where the candidate is one whatever token the response took; others are
            candidates because it took them.
    """

    nodes: pa.Table
    row_of: dict[str, int]
    token_NC: Ints
    prob_NC: Floats
    mask_NC: Bools
    value_NC: Floats
    var_NC: Floats
    half_value_HNC: Floats
    chosen_NC: Bools

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column of the table `nodes`."""
        return np.asarray(self.nodes[name].to_numpy())

    def ids(self, name: str) -> list[str]:
        """Return a key column of the table `nodes`."""
        return [str(value) for value in self.nodes[name].to_pylist()]


def read_nodes(folder: RunFolder, shard: str) -> NodeTable:
    """Read a shard's nodes and branches."""
    nodes = folder.read_table("nodes", shard)
    branches = folder.read_table("branches", shard)
    node_ids = [str(value) for value in nodes["node_id"].to_pylist()]
    row_of = {node_id: row for row, node_id in enumerate(node_ids)}
    row_O = np.array([row_of[value] for value in branches["node_id"].to_pylist()], dtype=np.int64)
    column_O = _running_number(row_O)
    width = int(column_O.max(initial=0)) + 1  # a shard without nodes has a column of padding

    def spread(name: str, fill: float) -> Floats:
        out = np.full((len(node_ids), width), fill)
        out[row_O, column_O] = branches[name].to_numpy()
        return out

    value_NC, var_NC = spread("value", np.nan), spread("value_var", np.nan)
    chosen_NC = np.zeros(value_NC.shape, dtype=np.bool_)
    chosen_NC[row_O, column_O] = pc.not_equal(branches["why"].cast(pa.string()), "sampled")
    return NodeTable(
        nodes=nodes,
        row_of=row_of,
        token_NC=spread("token_id", -1).astype(np.int64),
        prob_NC=spread("student_prob", 0.0),
        mask_NC=np.isfinite(value_NC) & np.isfinite(var_NC),
        value_NC=value_NC,
        var_NC=var_NC,
        half_value_HNC=np.stack([spread("value_half0", np.nan), spread("value_half1", np.nan)]),
        chosen_NC=chosen_NC,
    )


def read_directions(
    folder: RunFolder, shard: str, nodes: NodeTable
) -> dict[Arm, tuple[Ints, Floats, Floats]]:
    """Read every stored direction on the candidates, by teacher and method.

    Args:
        folder: the run's.
        shard: name of the shard.
        nodes: the shard's nodes.

    Returns:
        Per arm the rows of the nodes that the teacher was shown, [M]; the directions there,
        [M, C]: 0 at padding, NaN where the teacher's probability of a candidate is not known; and
        their squared length outside the candidates, [M].
    """
    table = folder.read_table("directions", shard)
    rows_M = np.array([nodes.row_of[str(name)] for name in table["node_id"].to_pylist()], np.int64)
    stored_MC, _ = padded(table["direction"], 0.0)
    value_MC = np.zeros((len(rows_M), nodes.mask_NC.shape[1]))
    value_MC[:, : stored_MC.shape[1]] = stored_MC
    arms = zip(table["teacher"].to_pylist(), table["method"].to_pylist(), strict=True)
    at: dict[Arm, list[int]] = {}
    for place, arm in enumerate(map(Arm._make, arms)):
        at.setdefault(arm, []).append(place)
    other_M = np.zeros(len(rows_M))
    if "other_direction" in table.column_names:  # tables of an older version lack it
        other_MX, _ = padded(table["other_direction"], 0.0)
        other_M = (other_MX**2).sum(axis=1)
    return {arm: (rows_M[places], value_MC[places], other_M[places]) for arm, places in at.items()}


@dataclass(frozen=True, eq=False)
class NodeView:
    """A teacher's view of (some of) a shard's nodes.

    Attributes:
        batch: for methods.
        rows: which nodes of the shard its rows are, [N].
        slot_NC: the support slot of each candidate; 0 where `mask_NC` is False.
        q_NC: the teacher's probability of each candidate; NaN where it is not known.
        mask_NC: True where V was measured and, for a teacher, Q is known.
    """

    batch: NodeBatch
    rows: Ints
    slot_NC: Ints
    q_NC: Floats
    mask_NC: Bools


class ShardViews:
    """A shard's nodes and every teacher's view of them, each built when it is first wanted.

    Attributes:
        run: the run.
        shard: name of the shard.
    """

    def __init__(self, run: Run, shard: str) -> None:
        self.run = run
        self.shard = shard
        self._by_teacher: dict[str, NodeView] = {}

    @cached_property
    def nodes(self) -> NodeTable:
        """The nodes with what targeted rollouts found."""
        return read_nodes(self.run.folder, self.shard)

    @cached_property
    def student(self) -> NodeView:
        """The view of methods that look at no teacher."""
        return student_view(self.run, self.shard, self.nodes)

    def teacher(self, label: str) -> NodeView:
        """Return a teacher's view."""
        if label not in self._by_teacher:
            self._by_teacher[label] = teacher_view(self.run, self.shard, self.nodes, label)
        return self._by_teacher[label]


def student_view(run: Run, shard: str, nodes: NodeTable) -> NodeView:
    """Build the batch of methods that look at no teacher: the support is the candidates."""
    order_NC = np.argsort(np.where(nodes.token_NC >= 0, nodes.token_NC, np.iinfo(np.int64).max))
    ids_NS = np.take_along_axis(nodes.token_NC, order_NC, axis=1)
    p_NS = np.take_along_axis(nodes.prob_NC, order_NC, axis=1)
    with np.errstate(divide="ignore"):
        log_p_NS = np.log(p_NS)
        log_tail_N = np.log(np.maximum(1.0 - p_NS.sum(axis=1), 0.0))
    rows = np.arange(len(ids_NS))
    slot_NC = np.empty_like(order_NC)
    np.put_along_axis(slot_NC, order_NC, np.arange(order_NC.shape[1])[None, :], axis=1)
    slot_NC = np.where(nodes.mask_NC, slot_NC, 0)
    batch = NodeBatch(
        log_p_NS=log_p_NS,
        log_q_NS=log_p_NS,
        mask_NS=ids_NS >= 0,
        log_tail_p_N=log_tail_N,
        log_tail_q_N=log_tail_N,
        num_tail_N=np.maximum(run.tokens.size - (ids_NS >= 0).sum(axis=1), 0),
        ids_NS=ids_NS,
        sampled_N=slots(ids_NS, nodes.column("sampled_token_id")[:, None])[:, 0],
        top_limit=int((ids_NS >= 0).sum(axis=1).min(initial=0)),
        continuations=_continuations(run, shard, nodes, rows, ids_NS, teacher=None),
        spines=_spines(run, shard, nodes, rows, teacher=None),
    )
    return NodeView(batch, rows, slot_NC, nodes.prob_NC, nodes.mask_NC)


def teacher_view(run: Run, shard: str, nodes: NodeTable, label: str) -> NodeView:
    """Build the batch of one teacher; nodes that it was not shown are left out.

    A token of which the teacher's server said nothing leaves the support for the tail, and, if
    it is a candidate, the visited set C of this teacher: `mask_NC` is False there. Where the
    teacher differs from the student by the rounding of their passes only, log Q is log P.
    """
    table = run.folder.read_table("distributions", teacher_file(shard, label))
    found_N = np.array(
        [nodes.row_of.get(str(value), -1) for value in table["node_id"].to_pylist()],
        dtype=np.int64,
    )
    table, rows = table.filter(pa.array(found_N >= 0)), found_N[found_N >= 0]
    padded_NS, mask_NS = padded(table["token_ids"], -1)
    ids_NS = padded_NS.astype(np.int64)
    log_p_NS, _ = padded(table["student_logprobs"], -np.inf)
    log_q_NS, _ = padded(table["teacher_logprobs"], -np.inf)
    token_NC = nodes.token_NC[rows]
    student_powers, _ = padded(table["student_tail_powers"], -np.inf)
    teacher_powers, _ = padded(table["teacher_tail_powers"], -np.inf)
    support = drop_unknown_tokens(
        Support(
            ids_NS=ids_NS,
            mask_NS=mask_NS,
            log_p_NS=log_p_NS,
            log_q_NS=log_q_NS,
            log_tail_p_N=table["student_log_tail"].to_numpy(),
            log_tail_q_N=table["teacher_log_tail"].to_numpy(),
            num_tail_N=table["num_tail"].to_numpy().astype(np.int64),
            tail_powers={
                temperature: (
                    _tail_power(student_powers, i, len(rows)),
                    _tail_power(teacher_powers, i, len(rows)),
                )
                for i, temperature in enumerate(tempering(run))
            },
            top_limit=min(run.kept_tokens(label), run.compared_tokens(label).size),
        )
    )
    support = _one_model(support, run.resolved.pass_dtype)
    ids_NS = support.ids_NS
    found_NC = slots(ids_NS, token_NC)
    view_mask_NC = nodes.mask_NC[rows] & (found_NC >= 0)
    slot_NC = np.where(view_mask_NC, found_NC, 0)
    batch = NodeBatch(
        log_p_NS=support.log_p_NS,
        log_q_NS=support.log_q_NS,
        mask_NS=support.mask_NS,
        log_tail_p_N=support.log_tail_p_N,
        log_tail_q_N=support.log_tail_q_N,
        num_tail_N=support.num_tail_N,
        ids_NS=ids_NS,
        sampled_N=slots(ids_NS, nodes.column("sampled_token_id")[rows][:, None])[:, 0],
        top_limit=support.top_limit,
        tail_powers=support.tail_powers,
        continuations=_continuations(run, shard, nodes, rows, ids_NS, teacher=label),
        spines=_spines(run, shard, nodes, rows, teacher=label),
    )
    q_NC = np.where(view_mask_NC, np.take_along_axis(batch.q_NS, slot_NC, axis=1), 0.0)
    q_NC[nodes.mask_NC[rows] & ~view_mask_NC] = np.nan
    return NodeView(batch, rows, slot_NC, q_NC, view_mask_NC)


def _tail_power(powers_NT: Floats, column: int, count: int) -> Floats:
    """Return a temperature's tail sums; without nodes there is no column of them."""
    return powers_NT[:, column] if count else np.zeros(0)


def _one_model(support: Support, dtype: str) -> Support:
    """Give the teacher the student's numbers where the two differ by rounding only.

    The tail is not asked: where the kept tokens agree so does its mass, and how it is spread moves
    no candidate.
    """
    same_N = agreeing_rows(support.log_p_NS, support.log_q_NS, dtype)
    if not same_N.any():
        return support
    return replace(
        support,
        log_q_NS=np.where(same_N[:, None], support.log_p_NS, support.log_q_NS),
        log_tail_q_N=np.where(same_N, support.log_tail_p_N, support.log_tail_q_N),
        tail_powers={
            temperature: (student_N, np.where(same_N, student_N, teacher_N))
            for temperature, (student_N, teacher_N) in support.tail_powers.items()
        },
    )


def _continuations(
    run: Run,
    shard: str,
    nodes: NodeTable,
    rows: Ints,
    ids_NS: Ints,
    *,
    teacher: str | None,
) -> Continuations:
    """Gather which continuation counts where, with its log-ratios if the teacher scored it."""
    passes = run.folder.read_table("passes", shard)
    made = run.folder.read_table("continuations", shard)
    row_in_batch = np.full(len(nodes.row_of), -1, dtype=np.int64)
    row_in_batch[rows] = np.arange(len(rows))
    shard_row_K = np.array(
        [nodes.row_of[str(value)] for value in passes["node_id"].to_pylist()], dtype=np.int64
    )
    node_K = row_in_batch[shard_row_K]
    continuation_K = passes["continuation"].to_numpy().astype(np.int64)
    keep = node_K >= 0
    flat_T, start_C, length_C = np.zeros(0), np.zeros(len(made), np.int64), None
    if teacher is not None and continuations_scored(run, shard, teacher):
        flat_T, start_C, length_C = _log_ratios(run, shard, made, teacher)
        if run.prompt_differs_by_spine(teacher):
            # Such a teacher reads another prompt on every spine: only its own spine's count.
            own = np.array(nodes.ids("spine_id"), dtype=object)[shard_row_K]
            forced = np.array(made["spine_id"].to_pylist(), dtype=object)[continuation_K]
            keep &= own == forced
    continuation_K, node_K = continuation_K[keep], node_K[keep]
    offset_K = passes["offset"].to_numpy().astype(np.int64)[keep]
    slot_K = slots(
        ids_NS[node_K], passes["candidate_id"].to_numpy().astype(np.int64)[keep][:, None]
    )[:, 0]
    half_K = passes["half"].to_numpy().astype(np.int64)[keep]
    inside = slot_K >= 0  # not, if the teacher's server said nothing of the candidate
    continuation_K, node_K, offset_K, slot_K, half_K = (
        values[inside] for values in (continuation_K, node_K, offset_K, slot_K, half_K)
    )
    start_K = start_C[continuation_K] + (0 if length_C is None else offset_K)
    stop_K = start_K if length_C is None else (start_C + length_C)[continuation_K]
    return Continuations(
        node_K=node_K,
        slot_K=slot_K,
        reward_K=made["reward"].to_numpy()[continuation_K],
        half_K=half_K,
        start_K=np.minimum(start_K, stop_K),
        stop_K=stop_K,
        log_ratio_T=flat_T,
    )


def continuations_scored(run: Run, shard: str, teacher: str) -> bool:
    """Whether student and teacher have scored the shard's continuations."""
    return all(
        run.folder.has_table("continuation_scores", teacher_file(shard, label))
        for label in (STUDENT, teacher)
    )


def _log_ratios(run: Run, shard: str, made: pa.Table, teacher: str) -> tuple[Floats, Ints, Ints]:
    """Return flat log(Q/P) of all continuations, and where each starts and how long it is."""
    key_of = {
        key: row
        for row, key in enumerate(zip(*(made[name].to_pylist() for name in _KEYS), strict=True))
    }
    scores: dict[str, tuple[Ints, pa.ListArray]] = {}
    model = next(run.model_of(item) for item in run.read_teachers if item.label == teacher)
    student = student_label(model) if run.lacks_tokens(teacher) else STUDENT
    for label in (student, teacher):
        table = run.folder.read_table("continuation_scores", teacher_file(shard, label))
        found = [
            key_of[key] for key in zip(*(table[name].to_pylist() for name in _KEYS), strict=True)
        ]
        scores[label] = (np.array(found, dtype=np.int64), table["logprobs"].combine_chunks())
    where, teacher_scores = scores[teacher]
    student_where, student_scores = scores[student]
    student_row = np.empty(len(made), dtype=np.int64)
    student_row[student_where] = np.arange(len(student_where))
    student_scores = student_scores.take(pa.array(student_row[where]))
    teacher_T = teacher_scores.flatten().to_numpy().astype(np.float64)
    student_T = student_scores.flatten().to_numpy().astype(np.float64)
    offsets = np.asarray(teacher_scores.offsets.to_numpy(), dtype=np.int64)
    start_C = np.zeros(len(made), dtype=np.int64)
    length_C = np.zeros(len(made), dtype=np.int64)
    start_C[where] = offsets[:-1] - offsets[0]
    length_C[where] = np.diff(offsets)
    return settled_ratios(teacher_T, student_T, run.resolved.pass_dtype), start_C, length_C


_KEYS = ("node_id", "candidate_id", "index")


def _spines(
    run: Run, shard: str, nodes: NodeTable, rows: Ints, *, teacher: str | None
) -> SpineView:
    """Point every node at its spine, with log(Q/P) of the spine's tokens under the teacher."""
    spines = run.folder.read_table("spines", shard)
    spine_row = {str(value): i for i, value in enumerate(spines["spine_id"].to_pylist())}
    reward_J = spines["reward"].to_numpy()
    question_J = np.array(spines["question_id"].to_pylist(), dtype=object)
    _, group_J = np.unique(question_J.astype(str), return_inverse=True)
    known_J = ~np.isnan(reward_J)  # a failed verification is no reward of 0
    size_G = np.bincount(group_J, weights=known_J)
    with np.errstate(invalid="ignore"):
        mean_G = np.bincount(group_J, weights=np.where(known_J, reward_J, 0.0)) / size_G
    length_J = spines["num_tokens"].to_numpy().astype(np.int64)
    begin_J = np.zeros(len(length_J), dtype=np.int64)
    log_ratio_T = np.zeros(int(length_J.sum()))
    begin_J[1:] = np.cumsum(length_J)[:-1]
    if teacher is not None:
        tokens = run.folder.read_table("tokens", teacher_file(shard, teacher))
        at = [begin_J[spine_row[str(value)]] for value in tokens["spine_id"].to_pylist()]
        place = np.array(at, dtype=np.int64) + tokens["position"].to_numpy()
        log_ratio_T[place] = settled_ratios(
            tokens["teacher_logprob"].to_numpy(),
            tokens["student_logprob"].to_numpy(),
            run.resolved.pass_dtype,
        )
    spine_N = np.array([spine_row[value] for value in nodes.ids("spine_id")], dtype=np.int64)[rows]
    return SpineView(
        begin_N=begin_J[spine_N],
        at_N=begin_J[spine_N] + nodes.column("position")[rows].astype(np.int64),
        end_N=begin_J[spine_N] + length_J[spine_N],
        reward_N=reward_J[spine_N],
        group_mean_N=mean_G[group_J[spine_N]],
        log_ratio_T=log_ratio_T,
    )


def slots(ids_NS: Ints, tokens_NC: Ints) -> Ints:
    """Return the slot of each token in its row's support (ids rising, -1 padding), else -1."""
    width = ids_NS.shape[1]
    if width == 0:
        return np.full(tokens_NC.shape, -1, dtype=np.int64)
    big = int(max(ids_NS.max(initial=0), tokens_NC.max(initial=0))) + 2
    filled_NS = np.where(ids_NS >= 0, ids_NS, big - 1)
    base_N = np.arange(len(ids_NS), dtype=np.int64)[:, None] * big
    flat = (filled_NS + base_N).reshape(-1)
    wanted = np.where(tokens_NC >= 0, tokens_NC, big - 1) + base_N
    place = np.minimum(np.searchsorted(flat, wanted.reshape(-1)), flat.size - 1)
    hit = (flat[place] == wanted.reshape(-1)) & (tokens_NC.reshape(-1) >= 0)
    slot = place - np.repeat(np.arange(len(ids_NS)) * width, tokens_NC.shape[1])
    return np.where(hit, slot, -1).reshape(tokens_NC.shape)


def _running_number(row_O: Ints) -> Ints:
    """Number the entries of each run of equal rows from 0."""
    if not len(row_O):
        return row_O
    starts = np.flatnonzero(np.r_[True, row_O[1:] != row_O[:-1]])
    return np.arange(len(row_O)) - np.repeat(starts, np.diff(np.r_[starts, len(row_O)]))


@dataclass(frozen=True, eq=False)
class Support:
    """Both distributions at many nodes, as the table `distributions` has them.

    Attributes:
        ids_NS: token ids, rising along a row, -1 at padding.
        mask_NS: True where there is a token.
        log_p_NS, log_q_NS: of the student and of the teacher; NaN in `log_q_NS` is "not known".
        log_tail_p_N, log_tail_q_N: log of the mass of all other tokens; the teacher's includes
            the tokens that are not known.
        num_tail_N: how many other tokens there are.
        tail_powers: per temperature T, log of the sums over the tail of p^(1/T) and q^(1/T);
            NaN for a teacher whose tail is not known token by token.
        top_limit: so many of each model's most probable tokens are surely there.
    """

    ids_NS: Ints
    mask_NS: Bools
    log_p_NS: Floats
    log_q_NS: Floats
    log_tail_p_N: Floats
    log_tail_q_N: Floats
    num_tail_N: Ints
    tail_powers: dict[float, tuple[Floats, Floats]]
    top_limit: int


def drop_unknown_tokens(support: Support) -> Support:
    """Move tokens that the teacher's server said nothing of to the tail of both models.

    What is kept is exact: the teacher's tail holds their mass already, the student's gets it
    here. `top_limit` falls to what the student's most probable token among them leaves. Where
    the teacher's tempered tail is not known, its mass counts as spread evenly over its tokens,
    as in `NodeBatch.at` without tail powers.
    """
    unknown_NS = support.mask_NS & np.isnan(support.log_q_NS)
    if unknown_NS.any():
        support = _moved(support, unknown_NS)
    return replace(
        support,
        tail_powers={
            temperature: (
                student_N,
                np.where(np.isnan(teacher_N), _even(support, temperature), teacher_N),
            )
            for temperature, (student_N, teacher_N) in support.tail_powers.items()
        },
    )


def _moved(support: Support, unknown_NS: Bools) -> Support:
    keep_NS = support.mask_NS & ~unknown_NS
    # Kept tokens first, in their order; then what has become padding.
    order_NS = np.argsort(~keep_NS, axis=1, kind="stable")
    width = int(keep_NS.sum(axis=1).max(initial=1))

    def kept(values_NS: npt.NDArray[np.generic], fill: float) -> npt.NDArray[np.generic]:
        moved = np.where(keep_NS, values_NS, fill).astype(values_NS.dtype)
        return np.take_along_axis(moved, order_NS, axis=1)[:, :width]

    log_p_lost_NS = np.where(unknown_NS, support.log_p_NS, -np.inf)
    best_lost_N = log_p_lost_NS.max(axis=1, initial=-np.inf)
    before_N = (keep_NS & (support.log_p_NS > best_lost_N[:, None])).sum(axis=1)
    has_lost_N = unknown_NS.any(axis=1)
    return Support(
        ids_NS=kept(support.ids_NS, -1).astype(np.int64),
        mask_NS=kept(support.mask_NS, 0).astype(np.bool_),
        log_p_NS=kept(support.log_p_NS, -np.inf).astype(np.float64),
        log_q_NS=kept(support.log_q_NS, -np.inf).astype(np.float64),
        log_tail_p_N=_with_tail(log_p_lost_NS, support.log_tail_p_N),
        log_tail_q_N=support.log_tail_q_N,
        num_tail_N=support.num_tail_N + unknown_NS.sum(axis=1),
        tail_powers={
            temperature: (_with_tail(log_p_lost_NS / temperature, student_N), teacher_N)
            for temperature, (student_N, teacher_N) in support.tail_powers.items()
        },
        top_limit=int(min(support.top_limit, before_N[has_lost_N].min())),
    )


def _with_tail(log_NS: Floats, log_tail_N: Floats) -> Floats:
    return np.asarray(np.logaddexp(np.logaddexp.reduce(log_NS, axis=1), log_tail_N))


def _even(support: Support, temperature: float) -> Floats:
    """Return the log of the sum of q^(1/T) of a teacher's tail that is spread evenly."""
    count_N = np.log(np.maximum(support.num_tail_N, 1))
    return np.asarray(count_N + (support.log_tail_q_N - count_N) / temperature)
