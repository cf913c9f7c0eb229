"""Stopping a run whose first targeted rollouts all end alike.

A node is flat if whatever was forced there ended alike: its ideal direction is 0, and nothing can
be compared with it. Where every node of the first rounds is flat, the rest would be spent for
nothing. Flat nodes are no surprise in a question that the student always or never solves; so what
is judged is questions whose responses are of both kinds, or, where the run has none, very many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from gradalign.errors import GateError
from gradalign.stages.base import Run
from gradalign.stages.branch.question import QuestionWork

MIXED_QUESTIONS, MIXED_NODES = 3, 30
"""Questions with right and wrong responses, and nodes in them, from which on flatness is judged."""

QUESTIONS, NODES = 16, 100
"""The same where no question of the run has both kinds."""

SINGLE_QUESTIONS = 50
"""Questions where each has one response only, so that it is not known which have both kinds."""


@dataclass
class FlatWatch:
    """Counts the nodes of first rounds.

    Attributes:
        num_rollouts: responses per question.
        has_mixed: whether any question of the run has right and wrong responses.
        nodes, questions: looked at so far.
        mixed_nodes, mixed_questions: of them, those of questions with responses of both kinds.
        contrast: whether a node was found that is not flat; nothing is counted from then on.
    """

    num_rollouts: int
    has_mixed: bool
    nodes: int = 0
    questions: int = 0
    mixed_nodes: int = 0
    mixed_questions: int = 0
    contrast: bool = False

    def add(self, rewards: Iterable[Iterable[float]], *, mixed: bool) -> None:
        """Look at a question's first round.

        Args:
            rewards: of every node, the rewards of the continuations of all its candidates.
            mixed: whether the question's responses are of both kinds.
        """
        found = [set(values) for values in rewards]
        kinds = [values for values in found if values]
        self.contrast = self.contrast or any(len(values) > 1 for values in kinds)
        self.questions += 1
        self.nodes += len(kinds)
        if mixed:
            self.mixed_questions += 1
            self.mixed_nodes += len(kinds)

    @property
    def hopeless(self) -> bool:
        """Whether enough was seen, and all of it was flat."""
        if self.contrast:
            return False
        if self.has_mixed:
            return self.mixed_questions >= MIXED_QUESTIONS and self.mixed_nodes >= MIXED_NODES
        needed = QUESTIONS if self.num_rollouts > 1 else SINGLE_QUESTIONS
        return self.questions >= needed and self.nodes >= NODES

    def check(self) -> None:
        """Stop the run if it is hopeless.

        Raises:
            GateError: every node so far is flat.
        """
        if not self.hopeless:
            return
        cause = (
            "what is forced does not change how responses end; the verifier may look at something "
            "that all of them share"
            if self.has_mixed
            else "no question has right and wrong responses: each is always solved, or never"
        )
        raise GateError(
            f"stopped while branching: all {self.nodes:,} nodes of the first "
            f"{self.questions:,} questions are flat, whatever was forced there.",
            "The responses are kept. Check the verifier, or take questions that this student "
            "sometimes solves; --go-on goes on as it is.",
            [f"Likeliest cause: {cause}."],
        )


def flat_watch(run: Run) -> FlatWatch | None:
    """Return a watch that knows of the shards that are done; None if nothing is to be watched."""
    if run.config.go_on:
        return None
    mixed: set[str] = set()
    for shard in run.folder.files("spines"):
        spines = run.folder.read_table("spines", shard)
        mixed |= {name for name, rewards in _by(spines, "question_id").items() if len(rewards) > 1}
    watch = FlatWatch(run.config.num_rollouts, bool(mixed))
    for shard in run.folder.files("nodes"):
        made = run.folder.read_table("continuations", shard)
        nodes: dict[str, list[set[float]]] = {}
        owner = dict(zip(made["node_id"].to_pylist(), made["question_id"].to_pylist(), strict=True))
        for node, rewards in _by(made, "node_id").items():
            nodes.setdefault(owner[node], []).append(rewards)
        for question, found in nodes.items():
            watch.add(found, mixed=question in mixed)
        if watch.contrast:
            return None
    return watch


def _by(table: pa.Table, key: str) -> dict[str, set[float]]:
    """Return the different rewards of each question or node."""
    found: dict[str, set[float]] = {}
    for name, reward in zip(table[key].to_pylist(), table["reward"].to_pylist(), strict=True):
        if reward is not None:
            found.setdefault(name, set()).add(reward)
    return found


def look_at(watch: FlatWatch, item: QuestionWork) -> None:
    """Let a watch look at a question whose first round has just been closed.

    Raises:
        GateError: see `FlatWatch.check`.
    """
    choices = {
        number for number, node in enumerate(item.branching.tree.nodes) if len(node.token_ids) > 1
    }
    rewards: dict[int, list[float]] = {number: [] for number in choices}
    for result in item.results:
        if result.request.node in choices and result.reward is not None:
            rewards[result.request.node].append(result.reward)
    own = {spine.reward for spine in item.spines if spine.reward == spine.reward}
    watch.add(rewards.values(), mixed=len(own) > 1)
    watch.check()
