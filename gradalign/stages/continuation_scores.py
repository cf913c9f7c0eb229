"""Stage 4, if a method looks at the future: log(Q/P) of every token of every continuation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.contexts import TeacherSpec
from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot
from gradalign.report.rows import Rows
from gradalign.stages.base import Run, Tick, Work, teacher_file
from gradalign.stages.records import read_questions, read_spines
from gradalign.stages.teacher_readings import LocalReader, ServedReader, open_teacher
from gradalign.stages.tools import Prompter

STUDENT = ""
"""The `teacher` under which the student's own scores are filed."""


@dataclass(frozen=True)
class _Forced:
    """The continuations of one spine, as the table has them."""

    node_ids: list[str]
    candidate_ids: list[int]
    indices: list[int]
    offshoots: list[tuple[int, list[int]]]


class StudentContinuations:
    """The student's own log-probabilities of its continuations."""

    name = "score continuations: student"
    unit = "continuations"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's scores are there."""
        return run.folder.has_table("continuation_scores", teacher_file(shard, STUDENT))

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with loaded_model(run.config.student, **run.model_options(run.config.student)) as model:

            def work(shard: str, tick: Tick) -> Counter[str]:
                prompts: dict[str, Sequence[int] | None] = {}
                spines = read_spines(run.folder, shard)
                for item in read_questions(run.folder, shard):
                    for spine in spines.get(item.question.id, []):
                        prompts[spine.spine_id] = item.prompt_ids
                return _score(run, LocalReader(run, model), shard, STUDENT, prompts, tick)

            yield work


class TeacherContinuations:
    """One checkpoint's log-probabilities of the student's continuations, in all its contexts."""

    unit = "continuations"

    def __init__(self, model: str, teachers: Sequence[TeacherSpec]) -> None:
        self.name = f"score continuations: {model}"
        self.model = model
        self.teachers = list(teachers)

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
                for label, prompter in prompters.items():
                    if not run.folder.has_table("continuation_scores", teacher_file(shard, label)):
                        prompts = prompter.spine_prompts(shard)
                        counts += _score(run, reader, shard, label, prompts, tick)
                return counts

            yield work


def _score(
    run: Run,
    reader: LocalReader | ServedReader,
    shard: str,
    label: str,
    prompts: dict[str, Sequence[int] | None] | dict[str, list[int] | None],
    tick: Tick,
) -> Counter[str]:
    spines = {
        spine.spine_id: spine
        for group in read_spines(run.folder, shard).values()
        for spine in group
    }
    forced = _read_forced(run, shard)
    total = sum(len(item.offshoots) for item in forced.values())
    rows = Rows("continuation_scores")
    num_tokens = done = 0
    for spine_id, item in forced.items():
        prompt = prompts.get(spine_id)
        if prompt is None:
            continue
        scores = reader.offshoot_logprobs(
            [*prompt, *spines[spine_id].token_ids.tolist()],
            [Offshoot(len(prompt) + position, ids) for position, ids in item.offshoots],
            run.sampling if label == STUDENT else None,
        )
        rows.add(
            len(scores),
            question_id=spines[spine_id].question_id,
            node_id=item.node_ids,
            candidate_id=item.candidate_ids,
            index=item.indices,
            teacher=label,
            logprobs=scores,
        )
        done += len(scores)
        num_tokens += sum(len(row) for row in scores)
        tick(done, total, len(scores))
    run.folder.write_table("continuation_scores", teacher_file(shard, label), rows.table_of())
    return Counter(scored_continuations=done, scored_tokens=num_tokens)


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
