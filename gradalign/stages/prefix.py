"""Can a teacher go on from what the student began? The one diagnostic that samples.

The teacher continues every spine from several depths and from scratch; the student continues
from the same depths (its spines are its responses from scratch).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.contexts import TeacherSpec
from gradalign.engines.base import Completion, Engine
from gradalign.engines.requests import Request
from gradalign.engines.seeds import derive_seed
from gradalign.models.numbers import naming
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.continuations import STUDENT
from gradalign.stages.student import (
    Prompter,
    StudentTools,
    open_reader,
    student_engine,
    with_engine,
)
from gradalign.stages.teacher_engine import teacher_engine
from gradalign.store.shard import StoredSpine, read_shard
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_prefix"

DEPTHS = (0.25, 0.5, 0.75)
"""Shares of a spine that are given; 0, from scratch, comes in addition."""

SAMPLES = 2
"""Continuations per spine and depth."""

Prompts = dict[str, Sequence[int] | None]


@dataclass(frozen=True)
class _Job:
    """One continuation to be made."""

    spine: StoredSpine
    depth: float
    given: int
    index: int
    request: Request


@dataclass(frozen=True)
class ContinuePrefixes:
    """One checkpoint goes on from the student's prefixes, in all its contexts.

    Args:
        model: the checkpoint.
        teachers: the teachers with that checkpoint; none of them for the student itself.
    """

    kind: ClassVar[StageKind] = "prefix"
    unit: ClassVar[str] = "continuations"
    model: str
    teachers: tuple[TeacherSpec, ...]

    @property
    def name(self) -> str:
        """See Stage."""
        return f"continue prefixes: {self.model if self.teachers else 'student'}"

    @property
    def _labels(self) -> list[str]:
        return [teacher.label for teacher in self.teachers] or [STUDENT]

    def done(self, run: Run, shard: str) -> bool:
        """Whether every context's rows are there."""
        return all(run.folder.has_table(TABLE, teacher_file(shard, name)) for name in self._labels)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the engine, the verifiers and all prompts."""
        prompters = [Prompter(run, teacher) for teacher in self.teachers]
        prompts = {
            shard: _prompts(run, prompters, shard)
            for shard in run.shards()
            if not self.done(run, shard)
        }
        longest = max(
            (
                len(ids)
                for by_label in prompts.values()
                for by_spine in by_label.values()
                for ids in by_spine.values()
                if ids is not None
            ),
            default=0,
        )
        room = longest + run.resolved.max_tokens
        with open_reader(run) as reader, self._engine(run, room) as engine:
            tools = with_engine(reader, engine)

            def work(shard: str, tick: Tick) -> Counter[str]:
                counts: Counter[str] = Counter()
                for label, by_spine in prompts[shard].items():
                    if not run.folder.has_table(TABLE, teacher_file(shard, label)):
                        counts += _continue(run, tools, shard, label, by_spine, tick)
                return counts

            yield work

    def _engine(self, run: Run, max_model_len: int) -> AbstractContextManager[Engine]:
        if self.teachers:
            return teacher_engine(run, self.model, max_model_len)
        return student_engine(run, self.name)


def _prompts(run: Run, prompters: Sequence[Prompter], shard: str) -> dict[str, Prompts]:
    """Return, by teacher and spine, what is read before the response; the student's own if none."""
    stored = read_shard(run.folder, shard)
    if not prompters:
        return {STUDENT: {spine.spine_id: spine.prompt_ids for spine in stored.spines}}
    return {prompter.teacher.label: dict(prompter.spine_prompts(stored)) for prompter in prompters}


def _jobs(run: Run, shard: str, label: str, prompts: Prompts) -> Iterator[_Job]:
    """Yield every continuation of a shard; a depth of which nothing is left is not repeated."""
    depths = DEPTHS if label == STUDENT else (0.0, *DEPTHS)
    for spine in read_shard(run.folder, shard).spines:
        prompt = prompts.get(spine.spine_id)
        if prompt is None:
            continue
        seen = set()
        for depth in depths:
            given = cut(len(spine.token_ids), depth)
            if given in seen or (depth > 0 and given == 0):
                continue
            seen.add(given)
            ids = (*prompt, *spine.token_ids[:given].tolist())
            for index in range(SAMPLES):
                # Spines share the prompt from scratch, so the seed needs their name too.
                seed = derive_seed(
                    run.config.seed, f"prefix\x00{label}\x00{spine.spine_id}", ids, index
                )
                request = Request(ids, run.resolved.max_tokens - given, seed)
                yield _Job(spine, depth, given, index, request)


def _continue(
    run: Run, tools: StudentTools, shard: str, label: str, prompts: Prompts, tick: Tick
) -> Counter[str]:
    jobs = list(_jobs(run, shard, label, prompts))
    made: list[Completion | None] = [None] * len(jobs)
    finished = tools.engine.generate([job.request for job in jobs]) if jobs else iter(())
    words = f"teacher {label}" if label != STUDENT else f"student {run.config.student}"
    with naming(words, lambda i: jobs[i].spine.question_id):
        for done, (index, completion) in enumerate(finished, start=1):
            made[index] = completion
            tick(done, len(jobs), 1)
    drawn = [completion for completion in made if completion is not None]
    texts = tools.texts(
        [
            np.concatenate([job.spine.token_ids[: job.given], completion.token_ids])
            for job, completion in zip(jobs, drawn, strict=True)
        ]
    )
    verdicts = tools.verify(
        [
            (text, job.spine.question, completion.finish_reason)
            for text, job, completion in zip(texts, jobs, drawn, strict=True)
        ]
    )
    rows = Rows(TABLE)
    rows.add(
        len(jobs),
        question_id=[job.spine.question_id for job in jobs],
        spine_id=[job.spine.spine_id for job in jobs],
        teacher=label,
        depth=np.array([job.depth for job in jobs]),
        prefix_tokens=[job.given for job in jobs],
        index=[job.index for job in jobs],
        correct=[job.spine.correct for job in jobs],
        reward=[verdict.reward for verdict in verdicts],
        valid=[
            completion.finish_reason == "stop" and verdict.error_kind is None
            for completion, verdict in zip(drawn, verdicts, strict=True)
        ],
        num_tokens=[len(completion.token_ids) for completion in drawn],
        seed=[job.request.seed for job in jobs],
    )
    run.folder.write_table(TABLE, teacher_file(shard, label), rows.table_of())
    return Counter(
        prefix_continuations=len(jobs), prefix_tokens=sum(len(c.token_ids) for c in drawn)
    )


def cut(length: int, depth: float) -> int:
    """Return how many tokens of a spine are given at a depth; never its last one."""
    return min(int(depth * length), max(length - 1, 0))


def num_continuations(num_spines: int, num_teachers: int) -> int:
    """Return how many continuations the diagnostic samples, for the plan.

    Every teacher starts from scratch and at every depth; the student at every depth only, its
    spines being its responses from scratch. Spines so short that nothing is given at a depth
    have fewer.
    """
    return num_spines * SAMPLES * (num_teachers * (1 + len(DEPTHS)) + len(DEPTHS))


def num_tokens(spine_tokens: float, num_teachers: int) -> float:
    """Return how many tokens are sampled if responses stay as long as the student's.

    Args:
        spine_tokens: tokens of all spines.
        num_teachers: teachers, each with its context.
    """
    left = sum(1.0 - depth for depth in DEPTHS)
    return spine_tokens * SAMPLES * (num_teachers * (1.0 + left) + left)
