"""Stage 3: targeted rollouts. Force each candidate, let the student finish, verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.branching import (
    Candidates,
    NodePlan,
    QuestionBranching,
    choose_candidates,
)
from gradalign.errors import GradalignError
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.branch.question import QuestionWork
from gradalign.stages.branch.stream import Rollouts
from gradalign.stages.branch.tables import write_branch_tables
from gradalign.stages.student import StudentTools, open_student
from gradalign.store.shard import (
    SpinePositions,
    StoredSpine,
    padded,
    read_positions,
    read_shard,
)

TeacherTokens = dict[tuple[str, int], dict[str, npt.NDArray[np.int64]]]
"""(spine id, position) to each teacher's top tokens, most probable first."""


@dataclass(frozen=True)
class Branch:
    """Force candidates at the chosen nodes and estimate their success probabilities."""

    kind: ClassVar[StageKind] = "branch"
    name: ClassVar[str] = "branch"
    unit: ClassVar[str] = "continuations"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's nodes, the table written last, are there."""
        return run.folder.has_table("nodes", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student's engine and the verifiers."""
        with open_student(run, self.name) as tools, ThreadPoolExecutor(1, "tables") as writer:
            yield _BranchWork(run, tools, writer)


class _BranchWork:
    """Does shards; while one is written, the engine is at work on the next."""

    def __init__(self, run: Run, tools: StudentTools, writer: ThreadPoolExecutor) -> None:
        self._run, self._tools, self._writer = run, tools, writer
        self._rollouts = Rollouts(run, tools, lambda shard: plan_shard(run, shard))
        self._failure: GradalignError | None = None

    def expect(self, shard: str) -> None:
        """See LooksAhead."""
        self._rollouts.expect(shard)

    def __call__(self, shard: str, tick: Tick) -> Counter[str]:
        """Do a shard; see Work."""
        if self._failure is not None:
            raise self._failure
        questions = self._rollouts.make(shard, tick)
        written = self._writer.submit(write_branch_tables, self._run, self._tools, shard, questions)
        try:
            while not written.done() and self._rollouts.step():
                tick(1, 1, 1)
        except GradalignError as error:
            self._failure = error  # the next shard's: this one is done
        return written.result()


def plan_shard(run: Run, shard: str) -> list[QuestionWork]:
    """Choose the candidates of every chosen node of a shard."""
    config = run.config
    positions = read_positions(run.folder, shard)
    teacher_tokens = _teacher_tokens(run, shard)
    work = []
    for stored, group in read_shard(run.folder, shard).by_question():
        plans, candidates, entropies = [], [], []
        for number, spine in enumerate(group):
            if not len(spine.token_ids):
                continue
            student = positions[spine.spine_id]
            for n, position in enumerate(student.chosen.tolist()):
                chosen = _candidates(run, spine, student, n, teacher_tokens)
                plans.append(
                    NodePlan(
                        spine=number,
                        position=position,
                        inclusion_prob=float(student.inclusion_N[n]),
                        token_ids_C=chosen.token_ids_C,
                        prob_C=chosen.prob_C,
                    )
                )
                candidates.append(chosen)
                entropies.append(float(student.entropy_L[position]))
        branching = QuestionBranching(
            [spine.token_ids for spine in group],
            plans,
            allocation=config.allocation,
            budget=config.budget,
            per_candidate=None if config.budget else config.continuations,
            stop_ids=run.resolved.stop_token_ids,
            max_tokens=run.resolved.max_tokens,
        )
        work.append(QuestionWork(stored, group, candidates, entropies, branching))
    return work


def _candidates(
    run: Run,
    spine: StoredSpine,
    student: SpinePositions,
    n: int,
    teacher_tokens: TeacherTokens,
) -> Candidates:
    position = int(student.chosen[n])
    return choose_candidates(
        student.node_top_ids[n],
        np.exp(student.node_top_logprobs[n].astype(np.float64)),
        int(spine.token_ids[position]),
        teacher_tokens.get((spine.spine_id, position), {}),
        coverage=run.config.coverage,
        max_candidates=run.config.max_candidates,
        min_prob=run.config.min_prob,
        sampled_prob=float(np.exp(student.logprob_L[position])),
    )


def _teacher_tokens(run: Run, shard: str) -> TeacherTokens:
    """Return, per node, the fewest tokens that hold `coverage` of each teacher's mass."""
    found: TeacherTokens = {}
    for teacher in run.named_teachers:
        table = run.folder.read_table("distributions", teacher_file(shard, teacher.label))
        ids_NS, _ = padded(table["token_ids"], -1)
        logprob_NS, _ = padded(table["teacher_logprobs"], -np.inf)
        top_NC = np.argsort(-logprob_NS, axis=1, kind="stable")[:, : run.config.max_candidates]
        q_NC = np.exp(np.take_along_axis(logprob_NS, top_NC, axis=1))
        ids_NC = np.take_along_axis(ids_NS, top_NC, axis=1).astype(np.int64)
        needed_NC = (np.cumsum(q_NC, axis=1) - q_NC < run.config.coverage) & (ids_NC >= 0)
        keys = zip(table["spine_id"].to_pylist(), table["position"].to_pylist(), strict=True)
        for key, ids_C, needed_C in zip(keys, ids_NC, needed_NC, strict=True):
            found.setdefault(key, {})[teacher.label] = ids_C[needed_C]
    return found
