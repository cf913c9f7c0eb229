"""Stored responses and rollouts verified anew, and every value that follows; no model is opened.

What another verifier said is kept in the table `verdicts` before anything is written over it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gradalign.branching import BranchRequest
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.branch.question import Continued, QuestionWork
from gradalign.stages.branch.stage import plan_shard
from gradalign.stages.branch.tables import write_branch_tables
from gradalign.stages.failures import FailureWatch
from gradalign.stages.student import ResponseReader, open_reader
from gradalign.store.folder import RunFolder
from gradalign.store.schema import schema
from gradalign.store.shard import read_questions
from gradalign.store.table_builder import Rows

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Reverify:
    """Give stored responses and continuations the rewards of the run's verifier.

    It takes the place of the branch stage in a run whose verifier was changed: the rollouts are
    there, and rounds are followed as they were asked for.
    """

    kind: ClassVar[StageKind] = "branch"
    name: ClassVar[str] = "verify again"
    unit: ClassVar[str] = "continuations"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's nodes, the table written last, are there."""
        return run.folder.has_table("nodes", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the verifiers."""
        failures = FailureWatch(run.resolved.verifier, run.config.max_verifier_failures)
        with open_reader(run, failures) as tools:
            yield lambda shard, tick: _verify(run, tools, shard, tick)


def keep_verdicts(folder: RunFolder, shard: str, verifier: str) -> None:
    """Put a shard's verdicts beside those of earlier verifiers, unless they are there.

    Args:
        folder: the run's.
        shard: the shard, whose responses and continuations are there.
        verifier: whose they are.
    """
    table = folder.read_table("verdicts", shard) if folder.has_table("verdicts", shard) else None
    if table is not None and verifier in pc.unique(table["verifier"].cast(pa.string())).to_pylist():
        return
    rows = Rows("verdicts")
    of_responses = ("question_id", "spine_id", "reward", "verifier_error", "read_by", "answer_read")
    of_rollouts = (
        *("question_id", "spine_id", "node_id", "candidate_id", "index"),
        *("reward", "verifier_error"),
    )
    for name, columns in (("spines", of_responses), ("continuations", of_rollouts)):
        stored = folder.read_table(name, shard)
        known = {column: stored[column] for column in columns}
        none = [None] * len(stored)
        missing = {c: none for c in schema("verdicts").names if c not in (*columns, "verifier")}
        rows.add(len(stored), verifier=verifier, **known, **missing)
    kept = rows.table_of()
    folder.write_table(
        "verdicts", shard, kept if table is None else pa.concat_tables([table, kept])
    )


def _verify(run: Run, tools: ResponseReader, shard: str, tick: Tick) -> Counter[str]:
    counts = _verify_responses(run, tools, shard)
    stored = run.folder.read_table("continuations", shard).to_pylist()
    by_question: dict[str, list[Row]] = {}
    for row in stored:
        by_question.setdefault(row["question_id"], []).append(row)
    work = plan_shard(run, shard)
    done = 0
    for item in work:
        rows = by_question.get(item.stored.question.id, [])
        _follow(item, rows, tools)
        item.other_allocation = _by_rewards(run) and _differs(item, rows)
        done += len(rows)
        tick(done, len(stored), len(rows))
    return counts + write_branch_tables(run, tools, shard, work)


def _verify_responses(run: Run, tools: ResponseReader, shard: str) -> Counter[str]:
    """Write the shard's responses with their new rewards."""
    table = run.folder.read_table("spines", shard)
    asked = {item.question.id: item.question for item in read_questions(run.folder, shard)}
    verdicts = tools.verify(
        [
            (text, asked[question], reason)
            for text, question, reason in zip(
                table["text"].to_pylist(),
                table["question_id"].to_pylist(),
                table["finish_reason"].to_pylist(),
                strict=True,
            )
        ]
    )
    new: dict[str, list[Any]] = {
        "reward": [verdict.reward for verdict in verdicts],
        "correct": [None if v.reward is None else v.reward == 1.0 for v in verdicts],
        "verifier_error": [verdict.error_kind or "" for verdict in verdicts],
        "read_by": [verdict.read_by for verdict in verdicts],
        "answer_read": [verdict.answer for verdict in verdicts],
    }
    rows = Rows("spines")
    rows.add(len(table), **{name: new.get(name) or table[name] for name in table.column_names})
    run.folder.write_table("spines", shard, rows.table_of())
    return Counter(verifier_failures=sum(verdict.error_kind is not None for verdict in verdicts))


def _follow(item: QuestionWork, rows: list[Row], tools: ResponseReader) -> None:
    """Make a question's rounds from what is stored."""
    tree = item.branching.tree
    node_at = {(node.spine, node.depth): index for index, node in enumerate(tree.nodes)}
    number_of = {spine.spine_id: number for number, spine in enumerate(item.spines)}
    stored: dict[BranchRequest, Row] = {}
    rounds: list[list[BranchRequest]] = []
    for row in rows:
        node = node_at[number_of[row["spine_id"]], row["position"]]
        slot = tree.nodes[node].token_ids.index(row["candidate_id"])
        request = BranchRequest(node, slot, row["index"], item.branching.is_finished(node, slot))
        stored[request] = row
        rounds += [[] for _ in range(row["round"] + 1 - len(rounds))]
        if not row["replaces"]:
            rounds[row["round"]].append(request)
    item.branching.follow(rounds)
    left = dict(stored)
    while requests := item.branching.next_requests():
        there = [request for request in requests if request in left]
        for request in requests:
            if request not in left:  # nobody drew what would stand in for it
                item.branching.observe(request, (), None)
        item.arrived = {
            request: (_tokens(row), str(row["finish_reason"]))
            for request, row in ((request, left.pop(request)) for request in there)
        }
        item.close_round(tools)
    # What stood in for a failed one that does not fail now counts nowhere, but stays.
    item.results += [
        Continued(request, _tokens(row), None, str(row["finish_reason"]), "", row["round"], True)
        for request, row in left.items()
    ]


def _tokens(row: Row) -> npt.NDArray[np.int32]:
    return np.asarray(row["token_ids"], dtype=np.int32)


def _by_rewards(run: Run) -> bool:
    """Whether a run's rollouts went where rewards said."""
    return run.config.allocation == "neyman" or run.config.target_se is not None


def _differs(item: QuestionWork, rows: list[Row]) -> bool:
    """Whether any rollout of a question has another reward than before."""
    before = sorted(_key(row["reward"]) for row in rows)
    return before != sorted(_key(result.reward) for result in item.results)


def _key(reward: float | None) -> float:
    return -1.0 if reward is None else float(reward)
