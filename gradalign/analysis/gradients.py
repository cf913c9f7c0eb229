"""What every direction asks of the student's weights: the passes that `--alignment weights` adds.

A question's update under an arm is M_q, the mean over its responses of sum_u w_u J_u^T m_u: m_u is
the arm's direction at node u, J_u the derivative of the node's logits by the weights, w_u one over
the inclusion probability. It is kept as a sketch (`gradalign.models.weight_space`), with what its
squared length is made of. That one is without the noise that no trainer has:

- of the choice of nodes: |sum_u w_u J_u^T m_u|^2 has w_u^2 |J_u^T m_u|^2 where a training on every
  position has w_u of it. The excess, sum_u w_u (w_u - 1) |J_u^T m_u|^2, is estimated by one more
  backward pass with random signs, and taken off; where all positions are nodes there is none.
- of the rollouts, under methods that use them: both factors are from different halves of them.

Responses come in two halves as well: the product of their means is what responses to one question
share, and what is left is their variance.

Sketches add up as gradients do. So they are made of parts, by half, outcome and, where asked for,
quarter of the response, and a split's update is the sum of its parts. Axes: _D numbers of a sketch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.estimates import Arm
from gradalign.models.gradients import LogitGradients, Push
from gradalign.models.weight_space import Sketch
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.weights.gradients import (
    NodePlaces,
    add_updates,
    open_space,
    responses_of,
    updates_there,
)
from gradalign.store.shard import StoredSpine, read_shard
from gradalign.store.splits import QUARTERS, position_splits
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightGradients:
    """Backward passes of the student: every question's update under every arm.

    Attributes:
        arms: teachers and methods that have a direction.
    """

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "gradients"
    unit: ClassVar[str] = "updates"
    arms: tuple[Arm, ...]

    def passes(self, run: Run) -> int:
        """Return how many backward passes every response takes."""
        some_nodes = run.config.node_sampler != "all"
        total = 0
        for arm in self.arms:
            halves = methods.get(arm.method).uses_continuations
            total += 1 + (2 if halves else 0) + ((2 if halves else 1) if some_nodes else 0)
        return total * (len(QUARTERS) if run.config.weights_quarters else 1)

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's updates are there for all arms."""
        return not any(self._missing(run, shard).values())

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients."""
        with open_space(run) as (model, parameters):
            sketch = Sketch(parameters)

            def work(shard: str, tick: Tick) -> Counter[str]:
                missing = self._missing(run, shard)
                pushes = StoredPushes(run, shard)
                groups = list(read_shard(run.folder, shard).by_question())
                total = len(groups) * sum(map(len, missing.values()))
                rows = {label: Rows("gradients") for label in missing}
                done = 0
                for question, spines in groups:
                    updates = _QuestionUpdates(run, model, parameters, sketch, spines, pushes)
                    for label, specs in missing.items():
                        for method in specs:
                            for row in updates.rows(Arm(label, method)):
                                rows[label].add(
                                    1,
                                    question_id=question.question.id,
                                    teacher=label,
                                    method=method,
                                    num_responses=len(spines),
                                    **row,
                                )
                            done += 1
                            tick(done, total, 1)
                for label, own in rows.items():
                    add_updates(run, shard, label, own.table_of())
                return Counter(updates=total)

            yield work

    def _missing(self, run: Run, shard: str) -> dict[str, list[str]]:
        """Return the methods that are not there yet, by teacher."""
        wanted: dict[str, list[str]] = {}
        for arm in self.arms:
            wanted.setdefault(arm.teacher, []).append(arm.method)
        missing = {}
        for label, specs in wanted.items():
            there = updates_there(run, shard, label)
            if left := [method for method in specs if method not in there]:
                missing[label] = left
        return missing


class StoredPushes:
    """A shard's directions by node, as the table `directions` has them.

    Args:
        run: the run.
        shard: name of the shard.

    Attributes:
        places: the nodes.
    """

    def __init__(self, run: Run, shard: str) -> None:
        self.places = NodePlaces(run, shard)
        table = run.folder.read_table("directions", shard)
        self._of: dict[tuple[Arm, str], dict[str, Sequence[float]]] = {}
        self._others: dict[tuple[Arm, str], Sequence[int]] = {}
        names = ("node_id", "teacher", "method", "direction", "other_ids", "other_direction")
        for node, teacher, method, inside, others, outside, *halves in zip(
            *(table[name].to_pylist() for name in (*names, *HALVES)), strict=True
        ):
            arm = Arm(teacher, method)
            self._others[arm, node] = others or []
            whole = [*(inside or []), *(outside or [])]
            for name, values in zip((WHOLE, *HALVES), (whole, *halves), strict=True):
                if values is not None:
                    self._of.setdefault((arm, name), {})[node] = [
                        math.nan if value is None else value for value in values
                    ]

    def of(
        self, arm: Arm, part: str, spines: Sequence[StoredSpine], factors: Mapping[str, float]
    ) -> list[Push]:
        """Return where an arm pushes some responses, numbered in order.

        Args:
            arm: the arm.
            part: `WHOLE`, or one of `HALVES` of the rollouts.
            spines: the responses.
            factors: what the direction is multiplied by, by node; others are left out.
        """
        found = self._of.get((arm, part), {})
        return [
            self.places.push(
                node,
                number,
                [*self.places.candidates[node], *self._others[arm, node]][: len(found[node])],
                found[node],
                factors[node],
            )
            for number, spine in enumerate(spines)
            for node in self.places.nodes_of(spine)
            if node in found and factors.get(node)
        ]


WHOLE = "direction"
HALVES = ("half0", "half1")
EXCESS = "excess "
"""What comes before a part's name where it has random signs, for the noise of chosen nodes."""


class _Cell(NamedTuple):
    """Which part of a question's update it is."""

    half: int
    correct: bool | None
    quarter: str


class _Group(NamedTuple):
    """Responses of one half and outcome, with the graph of their logits."""

    half: int
    correct: bool | None
    spines: list[StoredSpine]
    gradients: LogitGradients


class _QuestionUpdates:
    """One question's updates, from a graph for each half and outcome of its responses."""

    def __init__(
        self,
        run: Run,
        model: torch.nn.Module,
        parameters: Sequence[torch.Tensor],
        sketch: Sketch,
        spines: Sequence[StoredSpine],
        pushes: StoredPushes,
    ) -> None:
        self._sketch, self._pushes, self._count = sketch, pushes, len(spines)
        self._sizes = [len(half) for half in (spines[0::2], spines[1::2]) if half]
        self._groups = [
            _Group(
                half,
                correct,
                own,
                LogitGradients(responses_of(run, model, own, pushes.places), parameters),
            )
            for half in (0, 1)
            for correct in (True, False, None)
            if (own := [spine for spine in spines[half::2] if spine.correct is correct])
        ]
        nodes = [node for spine in spines for node in pushes.places.nodes_of(spine)]
        weights = {node: pushes.places.weight[node] for node in nodes}
        question = spines[0].question_id if spines else ""
        signs = run.rng("signs of weights", question).choice([-1.0, 1.0], size=len(nodes))
        excess = {
            node: sign * math.sqrt(max(weight * (weight - 1.0), 0.0))
            for (node, weight), sign in zip(weights.items(), signs, strict=True)
        }
        self._chosen = any(excess.values())
        parts = {"": np.ones(len(nodes), dtype=np.bool_)}
        if run.config.weights_quarters:
            parts = position_splits([pushes.places.relative[node] for node in nodes])
        self._factors = {
            (quarter, signed): {
                node: values[node] for node, inside in zip(nodes, kept_N, strict=True) if inside
            }
            for quarter, kept_N in parts.items()
            for signed, values in ((False, weights), (True, excess))
        }
        self._quarters = tuple(parts)

    def rows(self, arm: Arm) -> Iterator[dict[str, object]]:
        """Yield an arm's update in every split, as the table `gradients` has it."""
        whole_and_halves: tuple[str, ...] = (WHOLE,)
        if methods.get(arm.method).uses_continuations:
            whole_and_halves = (WHOLE, *HALVES)
        cells = {part: self._cells(arm, part) for part in whole_and_halves}
        if self._chosen:
            for part in whole_and_halves[1:] or whole_and_halves:
                cells[EXCESS + part] = self._cells(arm, part, signed=True)
        yield {"split": "all", **self._row(cells, list(cells[WHOLE]))}
        for name, correct in (("correct", True), ("incorrect", False)):
            kept = [cell for cell in cells[WHOLE] if cell.correct is correct]
            yield {"split": name, **self._row(cells, kept)}
        for quarter in filter(None, self._quarters):
            kept = [cell for cell in cells[WHOLE] if cell.quarter == quarter]
            yield {"split": quarter, **self._row(cells, kept)}

    def _cells(self, arm: Arm, part: str, *, signed: bool = False) -> dict[_Cell, Floats]:
        """Return sketches of sums over responses, by their half, outcome and quarter."""
        return {
            _Cell(group.half, group.correct, quarter): self._sketch.of(
                group.gradients.along(
                    self._pushes.of(arm, part, group.spines, self._factors[quarter, signed])
                )
            )
            .cpu()
            .numpy()
            .astype(np.float64)
            for group in self._groups
            for quarter in self._quarters
        }

    def _row(
        self, cells: Mapping[str, Mapping[_Cell, Floats]], kept: Sequence[_Cell]
    ) -> dict[str, object]:
        """Return an update of some cells: its sketch, and what its length is made of."""
        numbers = dict.fromkeys(("length2", "within2", "response_variance"), 0.0)
        nothing_D = np.zeros(self._sketch.width)
        if not self._count:
            return {"sketch": [nothing_D], **numbers}

        def half_of(part: str, half: int) -> Floats:
            return sum((cells[part][cell] for cell in kept if cell.half == half), nothing_D)

        first, last = HALVES if HALVES[0] in cells else (WHOLE, WHOLE)
        halves = range(len(self._sizes))
        own = []
        for half, size in zip(halves, self._sizes, strict=True):
            length2 = float(half_of(first, half) @ half_of(last, half))
            if self._chosen:
                length2 -= float(half_of(EXCESS + first, half) @ half_of(EXCESS + last, half))
            own.append(length2 / size**2)
        sums = [half_of(WHOLE, half) for half in halves]
        numbers = {"length2": own[0], "within2": math.nan, "response_variance": math.nan}
        if len(sums) == 2:
            within = float(sums[0] @ sums[1]) / math.prod(self._sizes)
            parts = [(own_h - within) * size for own_h, size in zip(own, self._sizes, strict=True)]
            variance = sum(parts) / len(parts)
            numbers = {
                "length2": within + variance / self._count,
                "within2": within,
                "response_variance": variance,
            }
        return {"sketch": [sum(sums, nothing_D) / self._count], **numbers}
