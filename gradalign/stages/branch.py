"""Stage 3: targeted rollouts. Force each candidate, let the student finish, verify."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from gradalign.branching import (
    BranchRequest,
    Candidates,
    NodePlan,
    QuestionBranching,
    choose_candidates,
)
from gradalign.rollouts.base import Completion, Request
from gradalign.stages.base import Run, Tick, Work, teacher_file
from gradalign.stages.branch_tables import write_branch_tables
from gradalign.stages.branch_target import Target
from gradalign.stages.branch_work import Continued, QuestionWork
from gradalign.stages.node_arrays import padded
from gradalign.stages.positions import SpinePositions, read_positions
from gradalign.stages.records import StoredSpine, read_questions, read_spines
from gradalign.stages.tools import StudentTools, open_student

TeacherTokens = dict[tuple[str, int], dict[str, npt.NDArray[np.int64]]]
"""(spine id, position) to each teacher's top tokens, most probable first."""


class Branch:
    """Force candidates at the chosen nodes and estimate their success probabilities."""

    name = "branch"
    unit = "continuations"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's nodes, the table written last, are there."""
        return run.folder.has_table("nodes", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student's engine and the verifiers."""
        with open_student(run) as tools:
            yield lambda shard, tick: _branch_shard(run, tools, shard, tick)


def _branch_shard(run: Run, tools: StudentTools, shard: str, tick: Tick) -> Counter[str]:
    work = plan_shard(run, shard)
    rollouts = _Rollouts(run, tools, tick)
    rollouts.do(work)
    if run.config.target_se is not None:
        target = Target(run, shard, work)
        while target.extend():
            rollouts.do(work)
    return write_branch_tables(run, tools, shard, work)


def plan_shard(run: Run, shard: str) -> list[QuestionWork]:
    """Choose the candidates of every chosen node of a shard."""
    config = run.config
    spines = read_spines(run.folder, shard)
    positions = read_positions(run.folder, shard)
    teacher_tokens = _teacher_tokens(run, shard)
    work = []
    for stored in read_questions(run.folder, shard):
        group = spines.get(stored.question.id, [])
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
    for teacher in run.teachers:
        table = run.folder.read_table("distributions", teacher_file(shard, teacher.label))
        ids_RS, _ = padded(table["token_ids"], -1)
        logprob_RS, _ = padded(table["teacher_logprobs"], -np.inf)
        top_RC = np.argsort(-logprob_RS, axis=1, kind="stable")[:, : run.config.max_candidates]
        q_RC = np.exp(np.take_along_axis(logprob_RS, top_RC, axis=1))
        ids_RC = np.take_along_axis(ids_RS, top_RC, axis=1).astype(np.int64)
        needed_RC = (np.cumsum(q_RC, axis=1) - q_RC < run.config.coverage) & (ids_RC >= 0)
        keys = zip(table["spine_id"].to_pylist(), table["position"].to_pylist(), strict=True)
        for key, ids_C, needed_C in zip(keys, ids_RC, needed_RC, strict=True):
            found.setdefault(key, {})[teacher.label] = ids_C[needed_C]
    return found


class _Rollouts:
    """Feeds the engine from many questions at once; each starts its next round on its own."""

    def __init__(self, run: Run, tools: StudentTools, tick: Tick) -> None:
        self._run = run
        self._tools = tools
        self._tick = tick
        self._queue: deque[tuple[QuestionWork, BranchRequest]] = deque()
        self._sent: list[tuple[QuestionWork, BranchRequest]] = []
        self._live = 0
        self._done = 0

    def do(self, work: list[QuestionWork]) -> None:
        """Make every continuation that these questions ask for."""
        self._live = len(work)
        self._sent.clear()  # the engine counts each call's requests from 0
        total = sum(item.branching.budget for item in work)
        for item in work:
            self._open_round(item)
        if not self._queue:
            return
        for index, completion in self._tools.engine.generate(self._source()):
            item, request = self._sent[index]
            self._arrive(item, request, completion)
            self._done += 1
            self._tick(min(self._done, total), total, 1)

    def _source(self) -> Iterator[Request | None]:
        """Yield requests as they come up; None while others are still on their way."""
        while self._live:
            if not self._queue:
                yield None
                continue
            item, request = self._queue.popleft()
            self._sent.append((item, request))
            yield item.ask(request, self._run)

    def _open_round(self, item: QuestionWork) -> None:
        """Queue a question's next round; rounds without anything to sample end at once."""
        while True:
            item.open_requests = item.branching.next_requests()
            if not item.open_requests:
                self._live -= 1
                return
            item.arrived = {
                request: (np.zeros(0, dtype=np.int32), self._forced_reason(item, request))
                for request in item.open_requests
                if request.finished
            }
            self._queue.extend(
                (item, request) for request in item.open_requests if not request.finished
            )
            if len(item.arrived) < len(item.open_requests):
                return
            self._close_round(item)

    def _forced_reason(self, item: QuestionWork, request: BranchRequest) -> str:
        """Tell a forced stop token from a candidate forced at the last position."""
        last = int(item.branching.prefix(request)[-1])
        return "forced" if last in self._run.resolved.stop_token_ids else "length"

    def _arrive(self, item: QuestionWork, request: BranchRequest, completion: Completion) -> None:
        item.arrived[request] = (completion.token_ids, completion.finish_reason)
        if len(item.arrived) == len(item.open_requests):
            self._close_round(item)
            self._open_round(item)

    def _close_round(self, item: QuestionWork) -> None:
        """Verify a round's responses and hand them to the algorithm."""
        order = sorted(item.arrived)
        completed = [item.arrived[request] for request in order]
        texts = self._tools.texts(
            [
                np.concatenate([item.branching.prefix(request), tokens])
                for request, (tokens, _) in zip(order, completed, strict=True)
            ]
        )
        verdicts = self._tools.verify(
            [
                (text, item.stored.question, reason)
                for text, (_, reason) in zip(texts, completed, strict=True)
            ]
        )
        for request, (tokens, reason), verdict in zip(order, completed, verdicts, strict=True):
            reward, error = verdict.reward, verdict.error_kind or ""
            item.branching.observe(request, tokens, reward, truncated=reason == "length")
            item.results.append(Continued(request, tokens, reward, reason, error, item.round_index))
        item.arrived = {}
        item.round_index += 1
