"""How many continuations each candidate of a question gets, in rounds.

`QuestionBranching` is driven from outside: take `next_requests()`, sample and verify them in
any order (together with those of many other questions), `observe` each, repeat until `done`.

`uniform` is one round with the same number everywhere. `neyman` is a pilot and a main round. The
pilot's size and its weight in the final value follow from probabilities alone; the main round goes
where the pilot's rewards say that noise is left, and every candidate that takes part in it gets at
least 2, one per half. A node that looks flat gets no more than these: leaving it out
altogether would bias its values, because whether it looks flat depends on chance.
Where a question as a whole looks flat its budget is not used up.

Axes: _O branches of the question (all candidates of all tree nodes), _C candidates of a node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from gradalign.alignment.ideal import ideal_gradient, influence, noise_trace
from gradalign.branching import neyman
from gradalign.branching.estimates import NodeEstimates, NodePlan, node_estimates
from gradalign.branching.tree import PrefixTree
from gradalign.branching.values import estimate
from gradalign.branching.visits import Passes, Stored
from gradalign.errors import UnknownNameError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Allocation = Literal["uniform", "neyman"]

LEAST = 2
"""Continuations in a round: one per half, and enough for a sample variance."""

TRIES = 3
"""Continuations that are made until one has a reward; then the candidate goes without."""


class BranchRequest(NamedTuple):
    """One continuation to make; they sort so that sums do not depend on the order of arrival.

    Attributes:
        node: tree node (equal prefixes share one).
        slot: candidate of that tree node.
        number: how many continuations were forced here before it; goes into the seed.
        finished: the forced token already ends the response; verify it, nothing to sample.
    """

    node: int
    slot: int
    number: int
    finished: bool = False


class QuestionBranching:
    """The targeted rollouts of one question.

    Args:
        spines: token ids of every spine's response.
        plans: the chosen nodes.
        allocation: `uniform` or `neyman`.
        budget: continuations to force at most, finished ones not counted. Every candidate of
            a node with a choice gets 2 whatever the budget.
        per_candidate: continuations per candidate under `uniform`; the budget if not given.
        stop_ids: tokens that end a response.
        max_tokens: longest response; a candidate forced at its last position is finished.
        reuse: count continuations at the later nodes that they pass.
        backup: estimate values through the tree (see `gradalign.branching.values`).
        pilot_share: share of the planned continuations that the pilot makes.

    Attributes:
        observed: the request behind each of `continuations`.

    Raises:
        UnknownNameError: no such allocation.
        ValueError: neither a budget nor a number per candidate, or fewer than 2 of them.
    """

    def __init__(
        self,
        spines: Sequence[npt.ArrayLike],
        plans: Sequence[NodePlan],
        *,
        allocation: Allocation = "neyman",
        budget: int | None = None,
        per_candidate: int | None = None,
        stop_ids: Collection[int] = (),
        max_tokens: int | None = None,
        reuse: bool = True,
        backup: bool = True,
        pilot_share: float = 0.25,
    ) -> None:
        if allocation not in get_args(Allocation):
            raise UnknownNameError(
                f"unknown allocation {allocation!r}.", f"Known: {', '.join(get_args(Allocation))}."
            )
        if budget is None and per_candidate is None:
            raise ValueError("give a budget or a number of continuations per candidate")
        if per_candidate is not None and per_candidate < LEAST:
            raise ValueError(f"per_candidate must be at least {LEAST}, got {per_candidate}")
        self.plans = tuple(plans)
        self.allocation = allocation
        self.backup = backup and reuse
        self.pilot_share = pilot_share
        self.tree = PrefixTree(spines, reuse=reuse)
        self.observed: list[BranchRequest] = []
        self.placed = [
            self.tree.add_node(plan.spine, plan.position, plan.token_ids_C, plan.prob_C)
            for plan in self.plans
        ]
        nodes = self.tree.nodes
        if allocation == "neyman":
            # Where there is no choice the ideal gradient is 0 whatever the value is.
            for node in nodes:
                node.linked = len(node.token_ids) > 1
        self.tree.link()
        self._offset = neyman.branch_offsets(self.tree)
        self._finished_O = np.asarray(
            [
                token in stop_ids or (max_tokens is not None and node.depth + 1 >= max_tokens)
                for node in nodes
                for token in node.token_ids
            ],
            dtype=np.bool_,
        )
        self._open_O = ~self._finished_O & np.asarray(
            [node.linked for node in nodes for _ in node.token_ids], dtype=np.bool_
        )
        num_open = int(self._open_O.sum())
        self.per_candidate = per_candidate or max(LEAST, (budget or 0) // max(num_open, 1))
        self.budget = budget if budget is not None else self.per_candidate * num_open
        self._exact_O = np.full(self._offset[-1], np.nan)
        self._forced_O = np.zeros(self._offset[-1], dtype=np.int64)
        self._next_O = np.zeros(self._offset[-1], dtype=np.int64)  # number of the next one
        self._tries: dict[BranchRequest, int] = {}
        self._again: list[BranchRequest] = []
        self._weights_RO = np.zeros((0, self._offset[-1]))
        self._prefixes: dict[tuple[int, int], npt.NDArray[np.int32]] = {}
        self._pending: set[BranchRequest] = set()
        self._results: dict[BranchRequest, tuple[npt.NDArray[np.int32], float, bool]] = {}
        self._later: list[int] = [] if allocation == "uniform" else [self.budget]
        self._rounds: list[Ints] = []
        self.done = not nodes

    def follow(self, rounds: Sequence[Iterable[BranchRequest]]) -> None:
        """Ask in each round for what was asked before, whatever the rewards are now.

        A round's weight in the values stays what it was: it follows from probabilities and from
        how much was asked for. Rounds beyond the planned ones are extensions.

        Args:
            rounds: per round its requests, those in place of failed ones left out.

        Raises:
            RuntimeError: a round has been asked for already.
        """
        if len(self._weights_RO):
            raise RuntimeError("rounds have been asked for already")
        for requests in rounds:
            number_O = np.zeros(self._offset[-1], dtype=np.int64)
            for request in requests:
                number_O[self._offset[request.node] + request.slot] += 1
            self._rounds.append(number_O)

    def next_requests(self) -> list[BranchRequest]:
        """Return the next round's requests; empty when done.

        Raises:
            RuntimeError: requests of the previous round have not been observed.
        """
        if self._pending:
            raise RuntimeError(f"{len(self._pending)} requests of this round are not observed yet")
        if self.done:
            return []
        if self._again:
            requests, self._again = self._again, []
            self._pending = set(requests)
            return requests
        number_O = self._next_round() if len(self._weights_RO) else self._first_round()
        requests = []
        for branch in np.flatnonzero(number_O).tolist():
            node = int(np.searchsorted(self._offset, branch, side="right")) - 1
            slot, first = branch - int(self._offset[node]), int(self._next_O[branch])
            requests += [
                BranchRequest(node, slot, index, bool(self._finished_O[branch]))
                for index in range(first, first + int(number_O[branch]))
            ]
        self._forced_O += number_O
        self._next_O += number_O
        self._pending = set(requests)
        self.done = not requests
        return requests

    def is_finished(self, node: int, slot: int) -> bool:
        """Whether a candidate of a tree node ends the response by itself."""
        return bool(self._finished_O[self._offset[node] + slot])

    def prefix(self, request: BranchRequest) -> npt.NDArray[np.int32]:
        """Response tokens up to and with the forced candidate; the prompt comes before them."""
        known = self._prefixes.get((request.node, request.slot))
        if known is None:
            node = self.tree.nodes[request.node]
            head = self.tree.spines[node.spine][: node.depth]
            known = np.append(head, np.int32(node.token_ids[request.slot])).astype(np.int32)
            self._prefixes[request.node, request.slot] = known
        return known

    def observe(
        self,
        request: BranchRequest,
        token_ids: npt.ArrayLike,
        reward: float | None,
        *,
        truncated: bool = False,
    ) -> None:
        """Report one request's tokens after the forced one, and the reward of the response.

        A reward of None is missing: another continuation is asked for in its stead, in the same
        round and half, up to `TRIES` of them. What is estimated then is the success probability
        of responses that can be verified.

        Raises:
            ValueError: a request that is not pending, or a reward outside [0, 1].
        """
        if request not in self._pending:
            raise ValueError(f"{request} is not pending")
        if reward is not None and not 0.0 <= reward <= 1.0:
            raise ValueError(f"a reward must be in [0, 1], got {reward} for {request}")
        self._pending.remove(request)
        if reward is None:
            self._replace(request)
        else:
            self._results[request] = (np.array(token_ids, dtype=np.int32), float(reward), truncated)
        if not self._pending and not self._again:
            self._close_round()

    def _replace(self, request: BranchRequest) -> None:
        """Ask for another continuation; none if this one cannot come out otherwise."""
        tries = self._tries.pop(request, 1)
        if request.finished or tries >= TRIES:
            return
        branch = self._offset[request.node] + request.slot
        number = int(self._next_O[branch])
        number += (number - request.number) % 2  # the same half
        self._next_O[branch] = number + 1
        again = request._replace(number=number)
        self._tries[again] = tries + 1
        self._again.append(again)

    def extend(self, continuations: int) -> None:
        """Ask for one more round of about so many continuations, after the last.

        For drivers that stop when `noise` is small enough. The new round gets the weight of its
        share of all continuations planned so far, whatever the rewards were.

        Raises:
            RuntimeError: rounds are still under way.
        """
        if not self.done or self._pending:
            raise RuntimeError("the rounds so far are not finished")
        if self._open_O.any() and continuations > 0:
            self._later.append(continuations)
            self.done = False

    def noise(self) -> tuple[float, float]:
        """Return sum w tr Cov(ghat) and sum w |g*|^2 (unbiased) over the question's nodes.

        Each summed over questions, first / second is the noise-to-signal ratio of the ideal
        gradient: what further rounds would lower. How sure an alignment is, is for the bootstrap
        over questions to say.
        """
        table = self.estimates()
        gradient_NC = ideal_gradient(table.prob_NC, table.value_NC, table.mask_NC)
        trace_N = noise_trace(table.prob_NC, table.var_NC, table.mask_NC)
        norm2_N = (gradient_NC**2).sum(axis=-1) - trace_N
        weight_N = 1.0 / table.inclusion_prob_N
        return float((weight_N * trace_N).sum()), float((weight_N * norm2_N).sum())

    @property
    def continuations(self) -> list[Stored]:
        """Every continuation with a reward, in the order that `passes` refers to."""
        return self.tree.continuations

    @property
    def replacing(self) -> bool:
        """Whether the requests handed out last stand in for those without a reward."""
        return not self._pending.isdisjoint(self._tries)

    @property
    def round_is_over(self) -> bool:
        """Whether every request of the last round has been observed, replacements too."""
        return not self._pending and not self._again

    @property
    def round_index(self) -> int:
        """Number of the round whose requests were handed out last, 0 the first."""
        return len(self._weights_RO) - 1

    def passes(self) -> Passes:
        """Return which continuation counts for which tree node and slot."""
        return self.tree.passes()

    def estimates(self) -> NodeEstimates:
        """Return what has been measured so far, one row per plan."""
        return node_estimates(
            self.tree,
            self.plans,
            self.placed,
            self._by_node(self._weights_RO),
            self._by_node(self._exact_O),
            backup=self.backup,
        )

    def _first_round(self) -> Ints:
        """The pilot, or all of a uniform allocation."""
        pilot_O = np.where(self._open_O, float(self.per_candidate), 0.0)
        self._planned_O = pilot_O
        if self.allocation == "neyman":
            reach_N = np.full(len(self.tree.nodes), neyman.PRIOR_REACH)
            spread_O = neyman.prior_spread(self.tree, backup=self.backup)
            floor_O = np.where(self._open_O, float(LEAST), 0.0)
            score_O = self._score(reach_N, spread_O)
            self._planned_O, self._scale = neyman.fill(score_O, floor_O, float(self.budget))
            pilot_O = np.maximum(floor_O, np.floor(self._planned_O * self.pilot_share))
            # The others are finished with the pilot, whatever it shows.
            self._main_O = self._open_O & (self._planned_O >= pilot_O + LEAST)
        number_O = pilot_O.astype(np.int64)
        weight_O = np.ones(len(number_O))
        if self.allocation == "neyman":
            share_O = pilot_O / np.maximum(self._planned_O, LEAST)
            weight_O = np.where(self._main_O, share_O, 1.0)
            if not self._main_O.any():
                self._later = []
        self._weights_RO = weight_O[None]
        if self._rounds:
            return self._rounds.pop(0)
        # A finished candidate needs to be verified once.
        return np.where(self._finished_O, 1, number_O)

    def _next_round(self) -> Ints:
        """The main round, or one that was asked for afterwards."""
        asked = self._later.pop(0)
        main = len(self._weights_RO) == 1 and self.allocation == "neyman" and self._main_O.any()
        part_O = self._main_O if main else self._open_O
        if self._rounds:
            number_O = self._rounds.pop(0)
        else:
            number_O = self._where_noise_is(asked, part_O, main=main)
        if main:
            weight_O = np.where(part_O, 1.0 - self._weights_RO[0], 0.0)
        else:
            share = asked / (asked + float(self._planned_O.sum()))
            self._planned_O = self._planned_O * (1.0 + asked / float(self._planned_O.sum()))
            weight_O = np.where(part_O, share, 0.0)
            self._weights_RO = self._weights_RO * (1.0 - weight_O)
        self._weights_RO = np.concatenate((self._weights_RO, weight_O[None]))
        return number_O

    def _where_noise_is(self, asked: int, part_O: npt.NDArray[np.bool_], *, main: bool) -> Ints:
        """Share a round out by the rewards so far."""
        # To learn from, all rounds so far count by size; this is no estimate to report.
        sizes = [counts.n.sum(axis=1) for counts in self.tree.counts]
        (values,) = estimate(
            self.tree,
            [n_RC / np.maximum(n_RC.sum(axis=0), 1.0) for n_RC in sizes],
            self._by_node(self._exact_O),
            backup=self.backup,
        )
        score_O = self._score(
            neyman.observed_reach(self.tree),
            neyman.posterior_spread(self.tree, values, backup=self.backup),
        )
        before_O = np.where(part_O, self._forced_O, 0).astype(np.float64)
        floor_O = np.where(part_O, before_O + LEAST, 0.0)
        score_O = np.where(part_O, score_O, 0.0)
        left = asked - float(self._forced_O[self._open_O].sum()) if main else float(asked)
        total_O, scale = neyman.fill(score_O, floor_O, left + float(before_O.sum()))
        if main and scale > self._scale:
            # Less noise than was planned for: no need to use the budget up.
            total_O = np.where(part_O, np.maximum(floor_O, score_O * self._scale), 0.0)
        number_O = np.where(part_O, neyman.whole(total_O - before_O), 0)
        return np.asarray(number_O, dtype=np.int64)

    def _score(self, reach_N: Floats, spread_O: Floats) -> Floats:
        """c_b s_b / sqrt(tokens), 0 where nothing is to be forced, [B]."""
        root_O = np.zeros(self._offset[-1])
        for plan, (node, slots) in zip(self.plans, self.placed, strict=True):
            # Rows that share a tree node share its errors, so their weights add up.
            column_C = np.sqrt(influence(plan.prob_C)) / plan.inclusion_prob
            root_O[self._offset[node] + slots] += column_C
        influence_O = neyman.total_influence(self.tree, root_O**2, reach_N, backup=self.backup)
        tokens_O = np.repeat(
            [max(1.0, len(self.tree.spines[n.spine]) - n.depth - 1.0) for n in self.tree.nodes],
            np.diff(self._offset),
        )
        return np.where(self._open_O, np.sqrt(influence_O / tokens_O) * spread_O, 0.0)

    def _close_round(self) -> None:
        for request in sorted(self._results):
            token_ids, reward, truncated = self._results[request]
            self.observed.append(request)
            self.tree.add(
                request.node,
                request.slot,
                token_ids,
                reward,
                half=request.number % 2,
                round_index=self.round_index,
                truncated=truncated,
            )
            if request.finished:
                self._exact_O[self._offset[request.node] + request.slot] = reward
        self._results.clear()
        self._tries.clear()
        if self._rounds and not self._later:
            self._later.append(int(self._rounds[0][self._open_O].sum()))
        self.done = not self._later

    def _by_node(self, values: Floats) -> list[Floats]:
        """Cut [..., B] into one [..., C] per tree node."""
        return np.split(values, self._offset[1:-1], axis=-1) if len(self._offset) > 1 else []
