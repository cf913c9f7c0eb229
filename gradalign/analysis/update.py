"""Update-level alignment (`alignment="update"`): what it needs of every node, and the cosines.

Two stages add to a run, and no sampling: `StudentHidden` reads the responses once more and keeps
what the output layer reads at every node; `UpdateDirections` keeps the ideal gradient and every
method's direction on the candidates. `update_level` then goes through pairs of shards, so that two
shards are in memory at a time, whatever the number of questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.alignment import Interval
from gradalign.alignment.update import IDEAL, GramSums, Key, Updates, update_alignment
from gradalign.analysis.align import NO_TEACHER, on_candidates
from gradalign.analysis.node_views import (
    ShardNodes,
    padded,
    read_nodes,
    student_only,
    with_teacher,
)
from gradalign.ideal import ideal_gradient
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.models.forward import sharing_of
from gradalign.models.numbers import check_logits, naming
from gradalign.models.output_layer import logit_slopes
from gradalign.stages.base import Run, Tick, Work
from gradalign.stages.distributions import student_sequences, tempering
from gradalign.stages.teachers import open_student_model
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


class StudentHidden:
    """A pass of the student that keeps its last hidden state at every node."""

    name = "distribute hidden states"
    unit = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's hidden states are there."""
        return run.folder.has_table("hidden", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            yield lambda shard, tick: _hidden_shard(run, model, shard, tick)


def _hidden_shard(run: Run, model: torch.nn.Module, shard: str, tick: Tick) -> Counter[str]:
    nodes = read_nodes(run, shard)
    rows_of: dict[str, list[int]] = {}
    for row, spine_id in enumerate(nodes.ids("spine_id")):
        rows_of.setdefault(spine_id, []).append(row)
    position_N = nodes.column("position").astype(np.int64)
    spines, sequences = student_sequences(run, shard)
    hidden_N: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(position_N)
    read = output_layer_inputs(model, sequences, batch_tokens=run.config.batch_tokens)
    with naming(f"student {run.config.student}", lambda i: spines[i].question_id):
        for done, (i, hidden_LD) in enumerate(read, start=1):
            for row in rows_of.get(spines[i].spine_id, []):
                hidden_N[row] = hidden_LD[position_N[row]]
            tick(done, len(sequences), 1)
    slopes_N: list[Floats] = []
    if len(position_N):
        slope_NC = logit_slopes(model, np.stack(hidden_N), nodes.token_NC)
        slopes_N = [
            slope_C[slope_there]
            for slope_C, slope_there in zip(slope_NC, nodes.token_NC >= 0, strict=True)
        ]
    rows = Rows("hidden")
    rows.add(
        len(position_N),
        question_id=nodes.ids("question_id"),
        node_id=nodes.ids("node_id"),
        hidden=hidden_N,
        slopes=slopes_N,
    )
    run.folder.write_table("hidden", shard, rows.table_of())
    return Counter(student_passes=len(sequences))


def output_layer_inputs(
    model: torch.nn.Module, sequences: Sequence[ForcedSequence], *, batch_tokens: int = 16384
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (index, what the output layer reads where each response token is predicted, [L, D]).

    Args:
        model: a causal language model.
        sequences: prompts with the responses to force; empty responses are left out.
        batch_tokens: padded tokens per forward pass at most.

    Raises:
        ContextOverflowError: a sequence is longer than the model's context.
        EngineError: a token id that the model does not have.
    """
    if any(len(sequence.response_ids) for sequence in sequences):
        sharing_of(model)  # its trial passes come before the hook
    caught: list[torch.Tensor] = []
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    row = 0
    try:
        for i, _ in forced_log_probs(model, sequences, batch_tokens=batch_tokens):
            if len(caught) > 1:  # the batch before this one
                del caught[0]
                row = 0
            length = len(sequences[i].response_ids)
            hidden_LD = caught[0][row, -length - 1 : -1].float()
            check_logits(hidden_LD, i)  # a cap makes numbers of infinite ones
            yield i, hidden_LD.cpu().numpy()
            row += 1
    finally:
        hook.remove()


class UpdateDirections:
    """Keep every direction on the candidates, [nodes, candidates]. Arrays only."""

    name = "update"
    unit = "directions"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's directions are there."""
        return run.folder.has_table("updates", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""
        yield lambda shard, tick: _directions_shard(run, shard, tick)


def _directions_shard(run: Run, shard: str, tick: Tick) -> Counter[str]:
    nodes = read_nodes(run, shard)
    total = 1 + len(directed(run))
    rows = Rows("updates")
    for done, ((teacher, method), direction_NC) in enumerate(_directions(run, shard, nodes), 1):
        rows.add(
            len(direction_NC),
            question_id=nodes.ids("question_id"),
            node_id=nodes.ids("node_id"),
            teacher=teacher,
            method=method,
            direction=direction_NC,
        )
        tick(done, total, len(direction_NC))
    run.folder.write_table("updates", shard, rows.table_of())
    return Counter(directions=total * len(nodes.row_of))


def _directions(run: Run, shard: str, nodes: ShardNodes) -> Iterator[tuple[Key, Floats]]:
    """Yield directions on the candidates of all nodes: the ideal, then in order of `directed`."""
    yield IDEAL, np.nan_to_num(ideal_gradient(nodes.prob_NC, nodes.value_NC, nodes.mask_NC))
    temperatures = tempering(run)
    for label in (NO_TEACHER, *(teacher.label for teacher in run.teachers)):
        specs = [spec for teacher, spec in directed(run) if teacher == label]
        if not specs:
            continue
        view = (
            student_only(run, shard, nodes)
            if label == NO_TEACHER
            else with_teacher(run, shard, nodes, label, temperatures)
        )
        for spec in specs:
            m_NC = np.zeros(nodes.mask_NC.shape)
            m_NC[view.rows] = on_candidates(
                methods.get(spec).ascent(view.batch), view, view.mask_NC
            )
            yield (label, spec), m_NC


def directed(run: Run) -> list[Key]:
    """Return teacher and method of every direction, those without a teacher first."""
    chosen = [methods.get(spec) for spec in run.config.methods]
    labels = (NO_TEACHER, *(teacher.label for teacher in run.teachers))
    return [
        (label, method.spec)
        for label in labels
        for method in chosen
        if ("teacher" in method.needs) == (label != NO_TEACHER)
    ]


def update_level(run: Run) -> dict[Key, Interval]:
    """Update-level alignment of every teacher and method, from the tables of a run.

    The update of the output layer's weight by each is compared with the ideal one: see
    `gradalign.alignment.update`. Nodes are weighted by their inclusion probability; one that
    a method has no direction at, or that a teacher was not shown, counts as zero, and with
    `mask_special` one where a special token was drawn. Methods that use continuations need no
    cross-fitting, as only different questions are paired.

    The cost is arithmetic, half of nodes^2 x hidden size multiplications for all methods together,
    and memory for two shards and, for every method, two numbers per pair of questions.
    """
    shards = run.shards()
    ids: list[str] = []
    for shard in shards:
        ids += map(str, run.folder.read_table("questions", shard)["question_id"].to_pylist())
    index_of = {question_id: index for index, question_id in enumerate(ids)}
    sums = GramSums(len(ids), directed(run))
    for place, shard in enumerate(shards):
        left = _read(run, shard, index_of)
        sums.add(left, left)
        for other in shards[place + 1 :]:
            sums.add(left, _read(run, other, index_of))
    return {
        key: update_alignment(
            sums.grams(key), seed=run.config.seed, num_resamples=run.config.bootstrap_resamples
        )
        for key in directed(run)
    }


def _read(run: Run, shard: str, index_of: dict[str, int]) -> Updates:
    """Read a shard's nodes; directions are multiplied by the nodes' weights."""
    nodes = read_nodes(run, shard)
    weight_N = 1.0 / nodes.column("inclusion_prob")
    if run.config.mask_special:
        weight_N = np.where(nodes.column("special").astype(np.bool_), 0.0, weight_N)
    # The ideal gradient and every direction are on the logits: the layer's weight is moved through
    # whatever the model does to the layer's output.
    factor_NC = weight_N[:, None] * _slopes(run, shard, nodes)
    table = run.folder.read_table("updates", shard)
    count, shape = len(weight_N), nodes.mask_NC.shape
    lists = table["direction"].combine_chunks()
    flat = np.asarray(lists.flatten().to_numpy(), dtype=np.float64)
    parts = flat.reshape(1 + len(directed(run)), *shape)
    return Updates(
        token_NC=np.where(nodes.mask_NC, nodes.token_NC, -1),
        hidden_ND=_hidden(run, shard, count),
        question_N=np.array([index_of[name] for name in nodes.ids("question_id")], dtype=np.int64),
        directions={
            key: part_NC * factor_NC
            for key, part_NC in zip([IDEAL, *directed(run)], parts, strict=True)
        },
    )


def _slopes(run: Run, shard: str, nodes: ShardNodes) -> Floats:
    """Return the slope of each candidate's logit, [N, C]; 1 in runs that did not keep them."""
    slope_NC = np.ones(nodes.mask_NC.shape)
    table = run.folder.read_table("hidden", shard)
    if "slopes" in table.column_names:
        found_NC, there_NC = padded(table["slopes"], 0.0)
        slope_NC[:, : found_NC.shape[1]][there_NC] = found_NC[there_NC]
    return slope_NC


def _hidden(run: Run, shard: str, count: int) -> Floats:
    lists = run.folder.read_table("hidden", shard)["hidden"].combine_chunks()
    flat = np.asarray(lists.flatten().to_numpy(), dtype=np.float64)
    return flat.reshape(count, -1) if count else np.zeros((0, 0))
