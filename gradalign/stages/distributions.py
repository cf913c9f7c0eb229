"""Stage 2: what student and teachers would have said at every position of every spine.

One model is in memory at a time, and reads every sequence once. The student chooses the nodes and
keeps its top tokens there, and what its output layer read; each teacher adds its own top tokens.
The student's output layer then gives P on the union, from what it read. A stage object is one
model's work on all shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign.alignment.overlap import overlap
from gradalign.branching import choose_nodes
from gradalign.contexts import TeacherSpec
from gradalign.models.checkpoints.tokenizers import check_common
from gradalign.models.distributions import (
    ForcedPass,
    ForcedSequence,
    PositionView,
    SupportView,
    at_tokens,
    forced_passes,
    position_view,
    response_distribution,
    top_tokens,
)
from gradalign.models.event_space import Cut, EventSpace, only
from gradalign.models.numbers import check_logits, naming
from gradalign.models.output_layer import logits_of, repeats_logits
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.student import Prompter
from gradalign.stages.teachers import (
    ByteReader,
    LocalReader,
    Reading,
    ServedReader,
    open_student_model,
    open_teacher,
)
from gradalign.store.shard import (
    TOP_K,
    SpinePositions,
    StoredSpine,
    read_hidden,
    read_positions,
    read_shard,
)
from gradalign.store.table_builder import Rows
from gradalign.tokenization.masses import Masses

if TYPE_CHECKING:
    import torch

Int32s = npt.NDArray[np.int32]

COMMON = "common_positions"
"""The student cut to the tokens of a teacher that lacks some."""

_OVERLAPS = ("ratio", "mass_student", "mass_teacher", "advantage", "advantage_verl")

OWN = ("hidden", "positions")
"""Tables of the student on all of its tokens, in the order in which they are written."""

LAYER_ROWS = 256
"""Nodes that the student's output layer is applied to at once, so that few [N, V] are in memory."""


@dataclass(frozen=True)
class StudentPositions:
    """The student along every spine: figures of every position, and the choice of nodes.

    Where a teacher lacks some of the student's tokens, the same pass gives the figures of the
    student cut to the others. At the nodes it keeps what the output layer read, for P on
    whatever tokens teachers will add.
    """

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute student"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's positions are there, for every set of tokens."""
        own = all(run.folder.has_table(name, shard) for name in OWN)
        return own and not _missing_common(run, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            yield lambda shard, tick: _positions_shard(run, model, shard, tick)


def _missing_common(run: Run, shard: str) -> list[str]:
    """Return the checkpoints that lack tokens, and for which the student was not read yet."""
    return [
        model
        for model in run.lacking_models()
        if not run.folder.has_table(COMMON, teacher_file(shard, model))
    ]


def _positions_shard(run: Run, model: torch.nn.Module, shard: str, tick: Tick) -> Counter[str]:
    spines, sequences = student_sequences(run, shard)
    own = all(run.folder.has_table(name, shard) for name in OWN)
    known = read_positions(run.folder, shard) if own else {}
    common = {name: run.common_tokens(name) for name in _missing_common(run, shard)}
    for name, tokens in common.items():
        for spine in spines:
            check_common(tokens, spine.token_ids, name, spine.spine_id)
    cuts = {name: Cut(tokens) for name, tokens in common.items()}
    pieces: dict[int, Rows] = {}
    hidden: dict[int, Rows] = {}
    cut_pieces: dict[str, dict[int, Rows]] = {name: {} for name in common}
    for i, read in student_passes(run, model, spines, sequences, repeats_logits(model)):
        spine = spines[i]
        log_probs_LV = response_distribution(read.logits_LV, run.sampling)
        view = position_view(log_probs_LV, spine.token_ids, TOP_K)
        if spine.spine_id in known:
            nodes = (known[spine.spine_id].chosen, known[spine.spine_id].inclusion_N)
        else:
            nodes = choose_nodes(
                view.entropy_L.astype(np.float64),
                run.config.nodes,
                run.config.node_sampler,
                rng=run.rng("nodes", spine.spine_id),
            )
        num_top = min(run.config.support_size, run.tokens.size)
        pieces[i] = _position_rows("positions", spine, view, nodes, log_probs_LV, num_top)
        hidden[i] = _hidden_rows(spine, nodes[0], read)
        for name, cut in cuts.items():
            log_probs_LV = response_distribution(cut(read.logits_LV), run.sampling)
            view = position_view(log_probs_LV, spine.token_ids, TOP_K)
            num_top = min(run.config.support_size, common[name].size)
            cut_pieces[name][i] = _position_rows(COMMON, spine, view, nodes, log_probs_LV, num_top)
        tick(len(pieces), len(sequences), 1)
    for name, found in cut_pieces.items():
        run.folder.write_table(COMMON, teacher_file(shard, name), _in_order(COMMON, found))
    counts = Counter(student_passes=len(sequences))
    if own:  # only those for a new teacher were missing
        return counts
    tables = {"hidden": _in_order("hidden", hidden), "positions": _in_order("positions", pieces)}
    for name in OWN:
        if not run.folder.has_table(name, shard):  # a run may have been cut off between the two
            run.folder.write_table(name, shard, tables[name])
    counts.update(nodes=len(tables["hidden"]), positions=len(tables["positions"]))
    return counts


def _position_rows(
    table: str,
    spine: StoredSpine,
    view: PositionView,
    nodes: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]],
    log_probs_LV: torch.Tensor,
    num_top: int,
) -> Rows:
    """Return a spine's positions; at its nodes (positions, inclusion) with more top tokens."""
    chosen, inclusion = nodes
    inclusion_L = np.full(len(spine.token_ids), np.nan)
    inclusion_L[chosen] = inclusion
    top = top_tokens(log_probs_LV, chosen, num_top)
    top_ids, top_logprobs = list(view.top_ids_LW), list(view.top_logprobs_LW)
    for position, ids_W, logprobs_W in zip(chosen, *top, strict=True):
        top_ids[position], top_logprobs[position] = ids_W, logprobs_W
    rows = Rows(table)
    rows.add(
        len(spine.token_ids),
        question_id=spine.question_id,
        spine_id=spine.spine_id,
        position=np.arange(len(spine.token_ids)),
        token_id=spine.token_ids,
        student_logprob=view.logprob_L,
        student_entropy=view.entropy_L,
        inclusion_prob=inclusion_L,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )
    return rows


def _hidden_rows(spine: StoredSpine, chosen: npt.NDArray[np.int64], read: ForcedPass) -> Rows:
    """Return what the output layer read at a spine's nodes; null if that is not all of it."""
    rows = Rows("hidden")
    kept: list[npt.NDArray[np.float32] | None] = [None] * len(chosen)
    if read.hidden_LD is not None:
        kept = list(read.hidden_LD[chosen].cpu().numpy())
    rows.add(
        len(chosen),
        question_id=spine.question_id,
        spine_id=spine.spine_id,
        position=chosen,
        node_id=[node_id(spine.spine_id, position) for position in chosen.tolist()],
        hidden=kept,
    )
    return rows


@dataclass(frozen=True)
class TeacherPositions:
    """The pass of one teacher checkpoint, for all its contexts."""

    kind: ClassVar[StageKind] = "distributions"
    unit: ClassVar[str] = "spines"
    model: str
    teachers: tuple[TeacherSpec, ...]

    @property
    def name(self) -> str:
        """See Stage."""
        return f"distribute {self.model}"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every context's tables are there."""
        return all(
            run.folder.has_table("supports", teacher_file(shard, teacher.label))
            for teacher in self.teachers
        )

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the teacher and the tokenizers."""
        prompters = {teacher.label: Prompter(run, teacher) for teacher in self.teachers}
        with open_teacher(run, self.model) as reader:

            def work(shard: str, tick: Tick) -> Counter[str]:
                counts: Counter[str] = Counter()
                for teacher in self.teachers:
                    if run.folder.has_table("supports", teacher_file(shard, teacher.label)):
                        continue
                    counts += _teacher_shard(run, reader, prompters[teacher.label], shard, tick)
                return counts

            yield work


def _teacher_shard(
    run: Run,
    reader: LocalReader | ServedReader | ByteReader,
    prompter: Prompter,
    shard: str,
    tick: Tick,
) -> Counter[str]:
    label = prompter.teacher.label
    stored = read_shard(run.folder, shard)
    spines, prompts = stored.spines, prompter.spine_prompts(stored)
    shown = [spine for spine in spines if prompts[spine.spine_id] is not None]
    model = run.model_of(prompter.teacher)
    positions = (
        read_positions(run.folder, teacher_file(shard, model), COMMON)
        if run.lacks_tokens(label)
        else read_positions(run.folder, shard)
    )
    read = [spine for spine in shown if len(spine.token_ids)]
    tokens, supports = {}, {}
    matched: dict[int, Rows] = {}
    for i, (view, unions, at, masses) in _readings(
        reader,
        label,
        read,
        [ForcedSequence(prompts[spine.spine_id] or (), spine.token_ids) for spine in read],
        [positions[spine.spine_id] for spine in read],
        tempering(run),
    ):
        spine, student = read[i], positions[read[i].spine_id]
        tokens[i] = Rows("tokens")
        tokens[i].add(
            len(spine.token_ids),
            question_id=spine.question_id,
            spine_id=spine.spine_id,
            position=np.arange(len(spine.token_ids)),
            teacher=label,
            token_id=spine.token_ids,
            token=prompter.token_texts(spine.token_ids),
            special=np.isin(spine.token_ids, run.resolved.special_token_ids),
            student_logprob=student.logprob_L,
            student_entropy=student.entropy_L,
            teacher_logprob=view.logprob_L,
            teacher_entropy=view.entropy_L,
            **_overlap(student, view, everywhere=not masses),
        )
        tick(len(tokens), len(read), 1)
        supports[i] = Rows("supports")
        if not len(student.chosen):
            continue
        supports[i].add(
            len(student.chosen),
            question_id=spine.question_id,
            spine_id=spine.spine_id,
            position=student.chosen,
            teacher=label,
            token_ids=unions,
            teacher_logprobs=at.logprobs,
            teacher_log_tail=at.log_tail_N,
            teacher_tail_powers=power_columns(at.tail_powers, len(student.chosen)),
        )
        if masses:
            matched[i] = _match_rows(spine, label, student.chosen.tolist(), masses)
    if run.matched_by_bytes(label):
        run.folder.write_table("matches", teacher_file(shard, label), _in_order("matches", matched))
    for name, pieces in (("tokens", tokens), ("supports", supports)):
        if not run.folder.has_table(name, teacher_file(shard, label)):
            run.folder.write_table(name, teacher_file(shard, label), _in_order(name, pieces))
    return Counter(teacher_passes=len(shown), skipped_pairs=len(spines) - len(shown))


def _overlap(student: SpinePositions, view: PositionView, *, everywhere: bool) -> dict[str, Any]:
    """Return the columns on both models' top tokens; NaN where these are known at nodes only."""
    if not everywhere:
        nothing = np.full(len(view.logprob_L), np.nan)
        return {f"overlap_{name}": nothing for name in _OVERLAPS}
    shared = overlap(
        student.top_ids_LW, student.top_logprobs_LW, view.top_ids_LW, view.top_logprobs_LW
    )
    return {f"overlap_{name}": getattr(shared, f"{name}_L") for name in _OVERLAPS}


def _match_rows(
    spine: StoredSpine, label: str, chosen: Sequence[int], masses: Sequence[Masses | None]
) -> Rows:
    """Return what a teacher with another tokenizer says at a spine's nodes, as far as it reads."""
    found = [item for item in zip(chosen, masses, strict=True) if item[1] is not None]
    rows = Rows("matches")
    columns: dict[str, Any] = {
        "token_ids": [at.token_C.astype(np.int32) for _, at in found if at],
        "mass": [at.q_C for _, at in found if at],
        "bound": [at.q_bound_C for _, at in found if at],
        "byte_mass": [at.byte_C for _, at in found if at],
        "byte_bound": [at.byte_bound_C for _, at in found if at],
        "matched": [1.0 - at.tail for _, at in found if at],
        "kept": [at.kept for _, at in found if at],
        "reads": [at.reads for _, at in found if at],
    }
    rows.add(
        len(found),
        question_id=spine.question_id,
        spine_id=spine.spine_id,
        position=[position for position, _ in found],
        node_id=[node_id(spine.spine_id, position) for position, _ in found],
        teacher=label,
        **columns,
    )
    return rows


def _readings(
    reader: LocalReader | ServedReader | ByteReader,
    label: str,
    spines: Sequence[StoredSpine],
    sequences: Sequence[ForcedSequence],
    students: Sequence[SpinePositions],
    temperatures: Sequence[float],
) -> Iterator[tuple[int, Reading]]:
    """Yield what a teacher says of its spines; without numbers, say which teacher and question."""
    with naming(f"teacher {label}", lambda i: spines[i].question_id):
        yield from reader.readings(sequences, students, temperatures)


@dataclass(frozen=True)
class StudentSupports:
    """P on each teacher's support, from what the student's output layer read."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute support"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every teacher's distributions are there."""
        return all(
            run.folder.has_table("distributions", teacher_file(shard, teacher.label))
            for teacher in run.read_teachers
        )

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            yield lambda shard, tick: _student_shard(run, model, shard, tick)


def _student_shard(run: Run, model: torch.nn.Module, shard: str, tick: Tick) -> Counter[str]:
    spines, sequences = student_sequences(run, shard)
    labels = [
        teacher.label
        for teacher in run.read_teachers
        if not run.folder.has_table("distributions", teacher_file(shard, teacher.label))
    ]
    by_spine: dict[str, dict[str, list[dict[str, Any]]]] = {label: {} for label in labels}
    for label in labels:
        for row in run.folder.read_table("supports", teacher_file(shard, label)).to_pylist():
            by_spine[label].setdefault(row["spine_id"], []).append(row)
    temperatures = tempering(run)
    pieces: dict[str, dict[int, Rows]] = {label: {} for label in labels}
    hidden, positions = read_hidden(run.folder, shard), read_positions(run.folder, shard)
    num_passes = 0
    for tokens, group in _by_tokens(run, labels).items():
        with only(model, tokens):
            if hidden is None:
                read = _nodes_again(run, model, spines, sequences, positions)
                num_passes += len(sequences)
            else:
                read = _nodes_from_hidden(run, model, spines, hidden, positions)
            for done, (i, log_probs_NV) in enumerate(read, start=1):
                tick(done, len(sequences), 1)
                for label in group:
                    nodes = by_spine[label].get(spines[i].spine_id, [])
                    if not nodes:
                        continue
                    unions = [np.asarray(row["token_ids"], dtype=np.int32) for row in nodes]
                    at = at_tokens(log_probs_NV, np.arange(len(nodes)), unions, temperatures)
                    pieces[label][i] = _distributions(spines[i], label, nodes, unions, at, tokens)
    for label in labels:
        run.folder.write_table(
            "distributions",
            teacher_file(shard, label),
            _in_order("distributions", pieces[label]),
        )
    return Counter(student_passes=num_passes)


def _nodes_from_hidden(
    run: Run,
    model: torch.nn.Module,
    spines: Sequence[StoredSpine],
    hidden: Mapping[str, npt.NDArray[np.float32]],
    positions: Mapping[str, SpinePositions],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index of a spine, log P [N, V] at its nodes) by the output layer alone."""
    with naming(f"student {run.config.student}", lambda i: spines[i].question_id):
        # A response without a token has no positions.
        rows = [
            [hidden[node_id(spine.spine_id, place)] for place in at.chosen.tolist()] if at else []
            for spine in spines
            for at in [positions.get(spine.spine_id)]
        ]
        for group in _grouped([len(part) for part in rows]):
            logits_NV = logits_of(model, np.stack([row_D for i in group for row_D in rows[i]]))
            end = 0
            for i in group:
                begin, end = end, end + len(rows[i])
                check_logits(logits_NV[begin:end], i)
                yield i, response_distribution(logits_NV[begin:end], run.sampling)


def _grouped(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of neighbours of up to `LAYER_ROWS` in sum; sizes of 0 are left out."""
    group: list[int] = []
    for i, size in enumerate(sizes):
        if group and size + sum(sizes[j] for j in group) > LAYER_ROWS:
            yield group
            group = []
        if size:
            group.append(i)
    if group:
        yield group


def _nodes_again(
    run: Run,
    model: torch.nn.Module,
    spines: Sequence[StoredSpine],
    sequences: Sequence[ForcedSequence],
    positions: Mapping[str, SpinePositions],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the same by a second pass, for a model whose output layer does not do by itself."""
    for i, read in student_passes(run, model, spines, sequences):
        chosen = positions[spines[i].spine_id].chosen
        yield i, response_distribution(read.logits_LV[chosen], run.sampling)


def _distributions(
    spine: StoredSpine,
    label: str,
    nodes: Sequence[Mapping[str, Any]],
    unions: Sequence[Int32s],
    at: SupportView,
    tokens: EventSpace,
) -> Rows:
    """Return both models at a spine's nodes: the teacher as stored, the student as read now."""
    positions = [row["position"] for row in nodes]
    rows = Rows("distributions")
    rows.add(
        len(nodes),
        question_id=spine.question_id,
        spine_id=spine.spine_id,
        position=positions,
        node_id=[node_id(spine.spine_id, position) for position in positions],
        teacher=label,
        token_ids=unions,
        student_logprobs=at.logprobs,
        teacher_logprobs=[row["teacher_logprobs"] for row in nodes],
        student_log_tail=at.log_tail_N,
        teacher_log_tail=[row["teacher_log_tail"] for row in nodes],
        num_tail=[max(tokens.size - len(union), 0) for union in unions],
        student_tail_powers=power_columns(at.tail_powers, len(nodes)),
        teacher_tail_powers=[row["teacher_tail_powers"] for row in nodes],
    )
    return rows


def _by_tokens(run: Run, labels: Sequence[str]) -> dict[EventSpace, list[str]]:
    """Group teachers by the tokens that the student is compared with them on."""
    groups: dict[EventSpace, list[str]] = {}
    for label in labels:
        groups.setdefault(run.compared_tokens(label), []).append(label)
    return groups or {run.tokens: []}


def student_passes(
    run: Run,
    model: torch.nn.Module,
    spines: Sequence[StoredSpine],
    sequences: Sequence[ForcedSequence],
    with_hidden: bool = False,
) -> Iterator[tuple[int, ForcedPass]]:
    """Yield (index, what the student gave along that spine) of a shard.

    Raises:
        NotNumbersError: naming the student and the question.
    """
    with naming(f"student {run.config.student}", lambda i: spines[i].question_id):
        yield from forced_passes(
            model, sequences, batch_tokens=run.config.batch_tokens, with_hidden=with_hidden
        )


def tempering(run: Run) -> list[float]:
    """Return the temperatures other than 1 at which some method reads the distributions."""
    from gradalign import methods

    wanted = {t for spec in run.config.methods for t in methods.get(spec).temperatures}
    return sorted(wanted - {1.0})


def power_columns(powers: dict[float, npt.NDArray[np.float64]], count: int) -> list[list[float]]:
    """Turn per-temperature columns into one list per node, in order of temperature."""
    return [[float(powers[t][n]) for t in sorted(powers)] for n in range(count)]


def node_id(spine_id: str, position: int) -> str:
    """Return the id of a node."""
    return f"{spine_id}/{position}"


def student_sequences(run: Run, shard: str) -> tuple[list[StoredSpine], list[ForcedSequence]]:
    """Return a shard's spines and each with the student's prompt."""
    spines = read_shard(run.folder, shard).spines
    return spines, [ForcedSequence(spine.prompt_ids, spine.token_ids) for spine in spines]


def _in_order(table: str, pieces: dict[int, Rows]) -> pa.Table:
    """Join the spines' pieces in order of the spines, however the batches came."""
    parts = [pieces[i].table_of() for i in sorted(pieces)]
    return pa.concat_tables(parts).unify_dictionaries() if parts else Rows(table).table_of()
