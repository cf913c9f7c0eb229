"""Stage 2: what student and teachers would have said at every position of every spine.

Three passes, so that one model is in memory at a time. The student's first pass chooses the
nodes and keeps the student's top tokens there; each teacher's pass adds its own top tokens; the
student's second pass reads P on the union. A stage object is one pass over all shards.
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
    ForcedSequence,
    PositionView,
    SupportView,
    at_tokens,
    forced_log_probs,
    position_view,
    top_tokens,
)
from gradalign.models.event_space import EventSpace, only
from gradalign.models.numbers import naming
from gradalign.models.output_layer import check_output_layer
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.student import Prompter
from gradalign.stages.teachers import (
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
    read_positions,
    read_shard,
)
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

Int32s = npt.NDArray[np.int32]

COMMON = "common_positions"
"""The student cut to the tokens of a teacher that lacks some."""


@dataclass(frozen=True)
class StudentPositions:
    """First pass of the student: every position's figures, and the choice of nodes."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute student"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's positions are there."""
        return run.folder.has_table("positions", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            if "update" in run.config.alignment:
                check_output_layer(model)

            def work(shard: str, tick: Tick) -> Counter[str]:
                spines, sequences = student_sequences(run, shard)
                pieces: dict[int, Rows] = {}
                num_nodes = 0
                num_top = min(run.config.support_size, run.tokens.size)
                for i, log_probs_LV in student_passes(run, model, spines, sequences):
                    spine = spines[i]
                    view = position_view(log_probs_LV, spine.token_ids, TOP_K)
                    chosen, inclusion = choose_nodes(
                        view.entropy_L.astype(np.float64),
                        run.config.nodes,
                        run.config.node_sampler,
                        rng=run.rng("nodes", spine.spine_id),
                    )
                    num_nodes += len(chosen)
                    top = top_tokens(log_probs_LV, chosen, num_top)
                    inclusion_L = np.full(len(spine.token_ids), np.nan)
                    inclusion_L[chosen] = inclusion
                    pieces[i] = _position_rows("positions", spine, view, chosen, top, inclusion_L)
                    tick(len(pieces), len(sequences), 1)
                run.folder.write_table("positions", shard, _in_order("positions", pieces))
                return Counter(nodes=num_nodes, positions=sum(len(s.token_ids) for s in spines))

            yield work


def _position_rows(
    table: str,
    spine: StoredSpine,
    view: PositionView,
    chosen: npt.NDArray[np.int64],
    top: tuple[Int32s, npt.NDArray[np.float32]],
    inclusion_L: npt.NDArray[np.float64],
) -> Rows:
    """Return a spine's positions; where a node is chosen, with `top`, the more top tokens."""
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


@dataclass(frozen=True)
class CommonPositions:
    """A pass of the student over the tokens that one teacher has too, where it lacks some.

    Attributes:
        model: the teacher's checkpoint.
    """

    kind: ClassVar[StageKind] = "distributions"
    unit: ClassVar[str] = "spines"
    model: str

    @property
    def name(self) -> str:
        """See Stage."""
        return f"distribute student for {self.model}"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's positions are there."""
        return run.folder.has_table(COMMON, teacher_file(shard, self.model))

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, cut to these tokens."""
        tokens = run.common_tokens(self.model)
        num_top = min(run.config.support_size, tokens.size)
        with open_student_model(run, tokens) as model:

            def work(shard: str, tick: Tick) -> Counter[str]:
                spines, sequences = student_sequences(run, shard)
                own = read_positions(run.folder, shard)
                pieces: dict[int, Rows] = {}
                for spine in spines:
                    check_common(tokens, spine.token_ids, self.model, spine.spine_id)
                for i, log_probs_LV in student_passes(run, model, spines, sequences):
                    spine, chosen = spines[i], own[spines[i].spine_id].chosen
                    inclusion_L = np.full(len(spine.token_ids), np.nan)
                    inclusion_L[chosen] = own[spine.spine_id].inclusion_N
                    view = position_view(log_probs_LV, spine.token_ids, TOP_K)
                    top = top_tokens(log_probs_LV, chosen, num_top)
                    pieces[i] = _position_rows(COMMON, spine, view, chosen, top, inclusion_L)
                    tick(len(pieces), len(sequences), 1)
                table = _in_order(COMMON, pieces)
                run.folder.write_table(COMMON, teacher_file(shard, self.model), table)
                return Counter(student_passes=len(sequences))

            yield work


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
    run: Run, reader: LocalReader | ServedReader, prompter: Prompter, shard: str, tick: Tick
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
    for i, (view, unions, at) in _readings(
        reader,
        label,
        read,
        [ForcedSequence(prompts[spine.spine_id] or (), spine.token_ids) for spine in read],
        [positions[spine.spine_id] for spine in read],
        tempering(run),
    ):
        spine, student = read[i], positions[read[i].spine_id]
        shared = overlap(
            student.top_ids_LW, student.top_logprobs_LW, view.top_ids_LW, view.top_logprobs_LW
        )
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
            overlap_ratio=shared.ratio_L,
            overlap_mass_student=shared.mass_student_L,
            overlap_mass_teacher=shared.mass_teacher_L,
            overlap_advantage=shared.advantage_L,
            overlap_advantage_verl=shared.advantage_verl_L,
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
    run.folder.write_table("tokens", teacher_file(shard, label), _in_order("tokens", tokens))
    run.folder.write_table("supports", teacher_file(shard, label), _in_order("supports", supports))
    return Counter(teacher_passes=len(shown), skipped_pairs=len(spines) - len(shown))


def _readings(
    reader: LocalReader | ServedReader,
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
    """Second pass of the student: P on each teacher's support."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute support"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every teacher's distributions are there."""
        return all(
            run.folder.has_table("distributions", teacher_file(shard, teacher.label))
            for teacher in run.teachers
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
        for teacher in run.teachers
        if not run.folder.has_table("distributions", teacher_file(shard, teacher.label))
    ]
    by_spine: dict[str, dict[str, list[dict[str, Any]]]] = {label: {} for label in labels}
    for label in labels:
        for row in run.folder.read_table("supports", teacher_file(shard, label)).to_pylist():
            by_spine[label].setdefault(row["spine_id"], []).append(row)
    temperatures = tempering(run)
    pieces: dict[str, dict[int, Rows]] = {label: {} for label in labels}
    for tokens, group in _by_tokens(run, labels).items():
        done = 0
        with only(model, tokens):
            for i, log_probs_LV in student_passes(run, model, spines, sequences):
                done += 1
                tick(done, len(sequences), 1)
                for label in group:
                    nodes = by_spine[label].get(spines[i].spine_id, [])
                    if not nodes:
                        continue
                    chosen = np.asarray([row["position"] for row in nodes], dtype=np.int64)
                    unions = [np.asarray(row["token_ids"], dtype=np.int32) for row in nodes]
                    at = at_tokens(log_probs_LV, chosen, unions, temperatures)
                    pieces[label][i] = _distributions(spines[i], label, nodes, unions, at, tokens)
    for label in labels:
        run.folder.write_table(
            "distributions",
            teacher_file(shard, label),
            _in_order("distributions", pieces[label]),
        )
    return Counter(student_passes=len(spines))


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
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, log P [L, V]) of a shard's spines, as they are sampled.

    Raises:
        NotNumbersError: naming the student and the question.
    """
    with naming(f"student {run.config.student}", lambda i: spines[i].question_id):
        yield from forced_log_probs(
            model, sequences, batch_tokens=run.config.batch_tokens, sampling=run.sampling
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
