"""Stage 4, if a method looks at the future: log(Q/P) of every token of every continuation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.contexts import TeacherSpec
from gradalign.models.checkpoints.tokenizers import check_common
from gradalign.models.continuations import Offshoot
from gradalign.models.numbers import naming
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.student import Prompter
from gradalign.stages.teachers import (
    ByteReader,
    LocalReader,
    ServedReader,
    open_student_model,
    open_teacher,
)
from gradalign.store.shard import Shard, read_shard
from gradalign.store.table_builder import Rows

STUDENT = ""
"""The `teacher` under which the student's own scores are filed."""


@dataclass(frozen=True)
class _Forced:
    """The continuations of one spine, as the table has them."""

    node_ids: list[str]
    candidate_ids: list[int]
    indices: list[int]
    offshoots: list[tuple[int, list[int]]]


def student_label(model: str | None) -> str:
    """Return the `teacher` of the student's scores, cut to the tokens of a checkpoint or not."""
    return STUDENT if model is None else f"student for {model}"


@dataclass(frozen=True)
class _Asked:
    """Whose scores are wanted.

    Attributes:
        label: the `teacher` that they are filed under.
        words: the model, for messages.
        model: the teacher's checkpoint; None for the student by itself.
        sampling: whether of the distribution that tokens are drawn from, as for the student.
    """

    label: str
    words: str
    model: str | None
    sampling: bool = True


@dataclass(frozen=True)
class StudentContinuations:
    """The student's own log-probabilities of its continuations.

    Attributes:
        model: a teacher's checkpoint that lacks some of its tokens: the student is cut to the
            others. None for the student by itself.
    """

    kind: ClassVar[StageKind] = "continuations"
    unit: ClassVar[str] = "continuations"
    model: str | None = None

    @property
    def name(self) -> str:
        """See Stage."""
        return f"score continuations: student{f' for {self.model}' if self.model else ''}"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's scores are there."""
        return run.folder.has_table(
            "continuation_scores", teacher_file(shard, student_label(self.model))
        )

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        tokens = run.common_tokens(self.model or run.config.student)
        with open_student_model(run, tokens) as model:

            def work(shard: str, tick: Tick) -> Counter[str]:
                stored = read_shard(run.folder, shard)
                prompts = {spine.spine_id: spine.prompt_ids for spine in stored.spines}
                asked = _Asked(
                    student_label(self.model), f"student {run.config.student}", self.model
                )
                return _score(
                    run, LocalReader(run, model, tokens), shard, stored, asked, prompts, tick
                )

            yield work


@dataclass(frozen=True)
class TeacherContinuations:
    """One checkpoint's log-probabilities of the student's continuations, in all its contexts."""

    kind: ClassVar[StageKind] = "continuations"
    unit: ClassVar[str] = "continuations"
    model: str
    teachers: tuple[TeacherSpec, ...]

    @property
    def name(self) -> str:
        """See Stage."""
        return f"score continuations: {self.model}"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's scores are there in every context."""
        return all(
            run.folder.has_table("continuation_scores", teacher_file(shard, teacher.label))
            for teacher in self.teachers
        )

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the teacher and its prompts."""
        prompters = {teacher.label: Prompter(run, teacher) for teacher in self.teachers}
        with open_teacher(run, self.model) as reader:

            def work(shard: str, tick: Tick) -> Counter[str]:
                counts: Counter[str] = Counter()
                stored = read_shard(run.folder, shard)
                for label, prompter in prompters.items():
                    if not run.folder.has_table("continuation_scores", teacher_file(shard, label)):
                        prompts = prompter.spine_prompts(stored)
                        asked = _Asked(label, f"teacher {label}", self.model, sampling=False)
                        counts += _score(run, reader, shard, stored, asked, prompts, tick)
                return counts

            yield work


def _score(
    run: Run,
    reader: LocalReader | ServedReader | ByteReader,
    shard: str,
    stored: Shard,
    asked: _Asked,
    prompts: Mapping[str, Sequence[int] | None],
    tick: Tick,
) -> Counter[str]:
    assert not isinstance(reader, ByteReader), "such a teacher is known at the nodes only"
    spines = {spine.spine_id: spine for spine in stored.spines}
    forced = {
        spine_id: _known_to(run, asked.model, item)
        for spine_id, item in _read_forced(run, shard).items()
    }
    total = sum(len(item.offshoots) for item in forced.values())
    rows = Rows("continuation_scores")
    num_tokens = done = 0
    for spine_id, item in forced.items():
        prompt = prompts.get(spine_id)
        if prompt is None:
            continue
        question_id = spines[spine_id].question_id
        with naming(asked.words, lambda _, name=question_id: name):  # type: ignore[misc]
            scores = reader.offshoot_logprobs(
                prompt,
                spines[spine_id].token_ids.tolist(),
                [Offshoot(position, ids) for position, ids in item.offshoots],
                run.sampling if asked.sampling else None,
            )
        rows.add(
            len(scores),
            question_id=question_id,
            node_id=item.node_ids,
            candidate_id=item.candidate_ids,
            index=item.indices,
            teacher=asked.label,
            logprobs=scores,
        )
        done += len(scores)
        num_tokens += sum(len(row) for row in scores)
        tick(done, total, len(scores))
    name = teacher_file(shard, asked.label)
    run.folder.write_table("continuation_scores", name, rows.table_of())
    return Counter(scored_continuations=done, scored_tokens=num_tokens)


def _known_to(run: Run, model: str | None, item: _Forced) -> _Forced:
    """Leave out the continuations of candidates that a teacher's checkpoint has no token for.

    Raises:
        TokenizerMismatchError: one of the others has such a token further on.
    """
    if model is None or run.common_tokens(model) == run.tokens:
        return item
    tokens = run.common_tokens(model)
    keep = [i for i, (_, ids) in enumerate(item.offshoots) if ids[0] in tokens]
    for i in keep:
        check_common(tokens, item.offshoots[i][1], model, item.node_ids[i])
    return _Forced(
        [item.node_ids[i] for i in keep],
        [item.candidate_ids[i] for i in keep],
        [item.indices[i] for i in keep],
        [item.offshoots[i] for i in keep],
    )


def _read_forced(run: Run, shard: str) -> dict[str, _Forced]:
    """Read a shard's continuations, by the spine that they branch off."""
    table = run.folder.read_table("continuations", shard)
    found: dict[str, _Forced] = {}
    columns = (
        table[name].to_pylist()
        for name in ("spine_id", "node_id", "position", "candidate_id", "index")
    )
    tokens: list[npt.NDArray[np.int32]] = [
        row.values.to_numpy() for row in table["token_ids"].combine_chunks()
    ]
    for spine_id, node_id, position, candidate, index, ids in zip(*columns, tokens, strict=True):
        item = found.setdefault(spine_id, _Forced([], [], [], []))
        item.node_ids.append(node_id)
        item.candidate_ids.append(candidate)
        item.indices.append(index)
        item.offshoots.append((position, [candidate, *ids.tolist()]))
    return found
