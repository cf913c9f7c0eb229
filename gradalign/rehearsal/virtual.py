"""A training that is not run: an arm moves the student, and other questions say what that gains.

Steps are made by one part of the questions and read on another. Some trained steps are one leap
along the arm's mean update, recomputed at the moved student after every leap. Stored responses
stand in for new ones, with the ratio rho of their probabilities, moved against old. Axes: _N nodes,
_M nodes that a teacher was shown, _C candidates, _S support.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.alignment.ideal import ideal_gradient
from gradalign.analysis.align import question_ids
from gradalign.estimates import Arm
from gradalign.methods import Mixture
from gradalign.methods.mixture import Part
from gradalign.rehearsal.gains import (
    ResponseGain,
    prefix_ratios,
    response_gain,
    token_gains,
)
from gradalign.rehearsal.moved import (
    NodePush,
    Passed,
    StoredResponses,
    Taught,
    moved,
    passes,
    taught_by_itself,
)
from gradalign.stages.base import Run
from gradalign.stages.student import Prompter
from gradalign.store.shard import read_shard

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GROUPS = 8
"""Groups of questions whose updates are held against each other."""


class Before(NamedTuple):
    """The student as it was on a shard's responses, in the order of these and of the nodes."""

    logprobs: list[Floats]
    logp_NC: Floats


@dataclass(frozen=True)
class QuestionGain:
    """What a moved student gains on one question, from its responses.

    Attributes:
        question: its id.
        gain: estimated change of success.
        outside: by how much likelier a response became to take a token that was no candidate.
        divergence: KL(P || P') of a whole response, nats.
        ratios: P' / P of every whole response.
    """

    question: str
    gain: float
    outside: float
    divergence: float
    ratios: Floats


@dataclass(frozen=True, eq=False)
class Update:
    """An arm's mean update by some questions.

    Attributes:
        direction: a tensor per parameter.
        variance: of each weight's update, between questions; None for one group of them.
        length2: squared length of `direction`.
        shared2: squared length of what groups of questions share, unbiased.
        noise2: squared length of what a question's update has beyond that, on average.
    """

    direction: list[torch.Tensor]
    variance: list[torch.Tensor] | None
    length2: float
    shared2: float
    noise2: float


class VirtualStudent:
    """The student of a run, and what it said before it was moved.

    Args:
        run: the run.
        model: the student with gradients.
        parameters: the space.

    Attributes:
        questions: ids of all questions that have a response, in order.
    """

    def __init__(
        self, run: Run, model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]
    ) -> None:
        self.run, self.model, self.parameters = run, model, parameters
        self._shards = [_Shard(StoredResponses(run, shard), model) for shard in run.shards()]
        self._moving = {}
        if run.config.rehearse_self == "moving":
            self._moving = {
                spec.label: Prompter(run, spec)
                for spec in run.read_teachers
                if run.model_of(spec) == run.config.student
            }
        there = {name for shard in self._shards for name in shard.counts}
        self.questions = [name for name in question_ids(run) if name in there]

    def halves(self) -> tuple[list[str], list[str]]:
        """Return every other question, and the others."""
        return self.questions[0::2], self.questions[1::2]

    def update(
        self,
        arm: Arm,
        questions: Sequence[str],
        displacement: Sequence[torch.Tensor] | None,
        *,
        with_variance: bool = False,
    ) -> Update:
        """Return an arm's mean update by some questions, at the moved student.

        Args:
            arm: the arm.
            questions: at least one.
            displacement: of the student's weights; None for none.
            with_variance: of every weight, too.
        """
        import torch

        total = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]
        squared = [torch.zeros_like(part) for part in total] if with_variance else []
        edges = np.linspace(0, len(questions), min(GROUPS, len(questions)) + 1).astype(int)
        sizes = np.diff(edges)
        squares = 0.0
        with moved(self.parameters, displacement):
            for begin, end in itertools.pairwise(edges):
                own = self._sum(arm, questions[begin:end], total)
                # As if all groups were of one size: a mean times the mean size.
                scale = sizes.mean() / (end - begin)
                squares += scale**2 * _length2(own)
                for part, new in zip(total, own, strict=True):
                    part += new
                if with_variance:
                    for part, new in zip(squared, own, strict=True):
                        part += (scale * new) ** 2
        count, number = len(questions), len(sizes)
        direction = [part / count for part in total]
        length2 = _length2(total) / count**2
        shared2 = noise2 = math.nan
        variance = None
        if number > 1:
            each2 = squares / number / sizes.mean() ** 2
            shared2 = (number * length2 - each2) / (number - 1)
            noise2 = (each2 - shared2) * float(sizes.mean())
            if with_variance:
                # Of a group's mean, times the questions that it is a mean of.
                variance = [
                    ((part / number / sizes.mean() ** 2 - mean**2) * number / (number - 1)).clamp(
                        min=0.0
                    )
                    * float(sizes.mean())
                    for part, mean in zip(squared, direction, strict=True)
                ]
        return Update(direction, variance, length2, shared2, noise2)

    def gains(
        self, questions: Sequence[str], displacement: Sequence[torch.Tensor]
    ) -> list[QuestionGain]:
        """Return what the moved student gains on some questions; see `gradalign.rehearsal.gains`.

        Args:
            questions: which.
            displacement: of the student's weights.
        """
        made = []
        with moved(self.parameters, displacement):
            for shard in self._shards:
                numbers = shard.numbers(questions)
                parts: dict[str, list[ResponseGain]] = {}
                for read in passes(shard.stored, self.model, numbers):
                    for number, part in zip(read.numbers, shard.gains(read), strict=True):
                        parts.setdefault(shard.question_of(number), []).append(part)
                for question, own in parts.items():
                    count = shard.counts[question]  # one without a token gains nothing
                    made.append(
                        QuestionGain(
                            question,
                            sum(part.gain for part in own) / count,
                            sum(part.outside for part in own) / count,
                            sum(part.divergence for part in own) / count,
                            np.array([part.ratio for part in own]),
                        )
                    )
        return made

    def _taught(self, shard: _Shard, read: Passed, label: str) -> Taught | None:
        """Return what a teacher that moves with the student says along a pass's responses."""
        if label not in self._moving:
            return None
        return taught_by_itself(read, self.model, shard.prompts(self._moving[label]))

    def _sum(
        self, arm: Arm, questions: Sequence[str], like: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return the sum over questions of their updates, each the mean over its responses."""
        import torch

        total = [torch.zeros_like(part) for part in like]
        parts = _parts_of(arm)
        for shard in self._shards:
            stored = shard.stored
            for read in passes(stored, self.model, shard.numbers(questions), with_gradient=True):
                factor_N = shard.factor_N[read.node_N] * shard.ratios(read)
                if self.run.config.mask_special:
                    factor_N = np.where(stored.special_N[read.node_N], 0.0, factor_N)
                pushes = []
                for part in parts:
                    push = shard.direction(read, part, self._taught(shard, read, part.teacher))
                    scale_M = part.coefficient * factor_N[push.place_M]
                    pushes.append(push._replace(values_MT=push.values_MT * scale_M[:, None]))
                found = read.gradient(self.parameters, pushes)
                for sum_, new in zip(total, found, strict=True):
                    if new is not None:
                        sum_ += new
        return total


def _parts_of(arm: Arm) -> list[Part]:
    """Return what an arm's update is the sum of; each part has its teacher, "" for none."""
    method = methods.get(arm.method)
    parts = method.parts if isinstance(method, Mixture) else (Part(1.0, method),)
    return [
        part._replace(
            teacher=part.teacher or (arm.teacher if "teacher" in part.method.needs else "")
        )
        for part in parts
    ]


class _Shard:
    """A shard's responses, what the student said before, and what a node counts."""

    def __init__(self, stored: StoredResponses, model: torch.nn.Module) -> None:
        self.stored = stored
        self._prompts: dict[str, dict[str, list[int] | None]] = {}
        self.counts: Counter[str] = Counter(stored.questions)
        logprobs: list[Floats] = [np.zeros(0)] * len(stored.spines)
        logp_NC = np.full(stored.views.nodes.token_NC.shape, -np.inf)
        for read in passes(stored, model, range(len(stored.spines))):
            for number, own in zip(read.numbers, read.logprobs, strict=True):
                logprobs[number] = own
            logp_NC[read.node_N] = read.logp_NC
        self.before = Before(logprobs, logp_NC)

    def question_of(self, number: int) -> str:
        """Return the question of a response."""
        return self.stored.spines[number].question_id

    def numbers(self, questions: Sequence[str]) -> list[int]:
        """Return the responses to some questions."""
        wanted = set(questions)
        return [i for i in range(len(self.stored.spines)) if self.question_of(i) in wanted]

    def prompts(self, prompter: Prompter) -> dict[str, list[int] | None]:
        """Return a teacher's prompt for every response."""
        label = prompter.teacher.label
        if label not in self._prompts:
            stored = self.stored
            shard = read_shard(stored.run.folder, stored.views.shard)
            self._prompts[label] = prompter.spine_prompts(shard)
        return self._prompts[label]

    def direction(self, read: Passed, part: Part, taught: Taught | None) -> NodePush:
        """Return where a method points at the nodes of a pass.

        Args:
            read: the pass.
            part: the method and its teacher; one that is a multiple of the ideal gradient is that
                of the old values.
            taught: what the teacher says now; None for one that stays what it is.
        """
        method = part.method
        if method.ideal_multiple is None:
            batch, place_M = read.moved_batch(part.teacher, self.before.logprobs, taught)
            ids_MS = np.where(batch.mask_NS, batch.ids_NS, -1)
            return NodePush(place_M, ids_MS, np.nan_to_num(method.ascent(batch)))
        nodes, rows = self.stored.views.nodes, read.node_N
        mask_NC, prob_NC = nodes.mask_NC[rows], np.exp(read.logp_NC)
        mass_N = np.where(mask_NC, prob_NC, 0.0).sum(axis=1)
        ideal_NC = ideal_gradient(prob_NC, nodes.value_NC[rows], mask_NC)
        direction_NC = method.ideal_multiple * mass_N[:, None] * np.nan_to_num(ideal_NC)
        ids_NC = np.where(mask_NC, nodes.token_NC[rows], -1)
        return NodePush(np.arange(len(rows)), ids_NC, direction_NC)

    def ratios(self, read: Passed) -> Floats:
        """Return the ratios of the prefixes of a pass's nodes, [N]."""
        stored, found = self.stored, [np.zeros(0)]
        for number, own in zip(read.numbers, read.logprobs, strict=True):
            position_N = stored.position_N[stored.nodes_of[number]]
            found.append(prefix_ratios(self.before.logprobs[number], own, position_N))
        return np.concatenate(found)

    def gains(self, read: Passed) -> Iterator[ResponseGain]:
        """Yield what the responses of a pass say of the student that made it."""
        nodes, rows = self.stored.views.nodes, read.node_N
        gain_N, outside_N = token_gains(
            np.exp(self.before.logp_NC[rows]),
            np.exp(read.logp_NC),
            nodes.value_NC[rows],
            nodes.mask_NC[rows],
            nodes.chosen_NC[rows],
        )
        factor_N = self.stored.weight_N[rows] * self.ratios(read)
        begin = 0
        for number, own in zip(read.numbers, read.logprobs, strict=True):
            at = slice(begin, begin := begin + len(self.stored.nodes_of[number]))
            yield response_gain(
                self.before.logprobs[number], own, factor_N[at], gain_N[at], outside_N[at]
            )

    @cached_property
    def factor_N(self) -> Floats:
        """1 over the inclusion probability and over the responses to the question."""
        share_N = np.zeros(len(self.stored.weight_N))
        for number, rows in enumerate(self.stored.nodes_of):
            share_N[rows] = 1.0 / self.counts[self.question_of(number)]
        return np.asarray(self.stored.weight_N * share_N)


def _length2(parts: Sequence[torch.Tensor]) -> float:
    return sum(float(part.double().square().sum()) for part in parts)
