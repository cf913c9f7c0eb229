"""One question on its way through the branch stage."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gradalign.branching import BranchRequest, Candidates, QuestionBranching
from gradalign.engines.requests import Request
from gradalign.engines.seeds import derive_seed, nth_seed
from gradalign.stages.base import Run
from gradalign.stages.student import ResponseReader
from gradalign.store.shard import StoredQuestion, StoredSpine


@dataclass
class Continued:
    """What became of one request, besides what the tree keeps.

    Attributes:
        request: it.
        token_ids: what was drawn after the forced token.
        reward: the verifier's; None where it failed.
        finish_reason: why the response ended.
        verifier_error: kind of the failure, empty if none.
        round_index: the round that asked for it.
        replaces: whether it stands in for one whose verification failed.
    """

    request: BranchRequest
    token_ids: npt.NDArray[np.int32]
    reward: float | None
    finish_reason: str
    verifier_error: str
    round_index: int
    replaces: bool = False


@dataclass(eq=False)
class QuestionWork:
    """One question while its continuations are made.

    Attributes:
        stored: the question.
        spines: its spines, in order.
        candidates: those of each chosen node, in order of `branching.plans`.
        entropies: the student's entropy at each chosen node.
        branching: the algorithm's state.
        results: every continuation so far, in the order in which rounds were closed.
        other_allocation: whether its rounds followed other rewards than it has now.
    """

    stored: StoredQuestion
    spines: list[StoredSpine]
    candidates: list[Candidates]
    entropies: list[float]
    branching: QuestionBranching
    results: list[Continued] = field(default_factory=list)
    other_allocation: bool = False
    open_requests: list[BranchRequest] = field(default_factory=list)
    arrived: dict[BranchRequest, tuple[npt.NDArray[np.int32], str]] = field(default_factory=dict)
    asked: dict[tuple[int, int], Request] = field(default_factory=dict)

    def ask(self, request: BranchRequest, run: Run, key: Hashable = None) -> Request:
        """Return what the engine is asked for: the prompt, the response so far, the candidate."""
        branch = (request.node, request.slot)
        if branch not in self.asked:
            prefix = self.branching.prefix(request)
            ids = (*self.stored.prompt_ids, *prefix.tolist())
            seed = derive_seed(run.config.seed, self.stored.question.id, ids, 0)
            self.asked[branch] = Request(ids, run.resolved.max_tokens - len(prefix), seed)
        first = self.asked[branch]
        seed = nth_seed(first.seed, request.number)
        return Request(first.prompt_ids, first.max_tokens, seed, key)

    def close_round(self, tools: ResponseReader) -> None:
        """Verify what has arrived and hand it to the algorithm."""
        order = sorted(self.arrived)
        completed = [self.arrived[request] for request in order]
        texts = tools.texts(
            [
                np.concatenate([self.branching.prefix(request), tokens])
                for request, (tokens, _) in zip(order, completed, strict=True)
            ]
        )
        replaces = self.branching.replacing
        verdicts = tools.verify(
            [
                (text, self.stored.question, reason)
                for text, (_, reason) in zip(texts, completed, strict=True)
            ],
            again=replaces,
        )
        number = self.branching.round_index
        for request, (tokens, reason), verdict in zip(order, completed, verdicts, strict=True):
            reward, error = verdict.reward, verdict.error_kind or ""
            self.branching.observe(request, tokens, reward, truncated=reason == "length")
            self.results.append(Continued(request, tokens, reward, reason, error, number, replaces))
        self.arrived = {}
