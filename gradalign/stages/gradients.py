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
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from gradalign import methods
from gradalign.estimates import Arm
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence
from gradalign.models.event_space import only
from gradalign.models.gradients import LogitGradients, Push
from gradalign.models.weight_space import Sketch, parse_space, weight_space
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.store.shard import StoredSpine, read_shard
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

IDEAL = "ideal"
"""The method under which the ideal direction's gradients are filed, with no teacher."""

NO_TEACHER = ""


@dataclass(frozen=True)
class WeightGradients:
    """Backward passes of the student: every question's update under every arm, and the ideal one.

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
        total = 1  # of the ideal direction
        for arm in self.arms:
            halves = methods.get(arm.method).uses_continuations
            total += 1 + (2 if halves else 0) + ((2 if halves else 1) if some_nodes else 0)
        return total

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's updates are there for all arms."""
        return not any(self._missing(run, shard).values())

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients in float32."""
        options = {**run.model_options(run.config.student), "dtype": "float32"}
        spec = parse_space(run.config.weights_space)
        with (
            loaded_model(run.config.student, **options) as model,
            only(model, run.tokens),
            weight_space(model, spec) as parameters,
        ):
            sketch = Sketch(parameters)

            def work(shard: str, tick: Tick) -> Counter[str]:
                missing = self._missing(run, shard)
                pushes = _Pushes(run, shard)
                groups = read_shard(run.folder, shard).by_question()
                total = len(list(groups)) * sum(map(len, missing.values()))
                rows = {label: Rows("gradients") for label in missing}
                done = 0
                for question, spines in read_shard(run.folder, shard).by_question():
                    updates = _QuestionUpdates(run, model, parameters, sketch, spines, pushes)
                    for label, specs in missing.items():
                        for method in specs:
                            arm = Arm(label, method)
                            row = updates.row(arm)
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
                    _write(run, shard, label, own.table_of())
                return Counter(updates=total)

            yield work

    def _missing(self, run: Run, shard: str) -> dict[str, list[str]]:
        """Return the methods that are not there yet, by teacher; the ideal direction first."""
        wanted: dict[str, list[str]] = {NO_TEACHER: [IDEAL]}
        for arm in self.arms:
            wanted.setdefault(arm.teacher, []).append(arm.method)
        missing = {}
        for label, specs in wanted.items():
            name, there = teacher_file(shard, label), set()
            if run.folder.has_table("gradients", name):
                table = run.folder.read_table("gradients", name, ["method"])
                there = set(table["method"].to_pylist())
            if left := [method for method in specs if method not in there]:
                missing[label] = left
        return missing


def _write(run: Run, shard: str, label: str, table: pa.Table) -> None:
    """Write a teacher's updates beside those of methods that are there already."""
    name = teacher_file(shard, label)
    if run.folder.has_table("gradients", name):
        before = run.folder.read_table("gradients", name)
        table = pa.concat_tables([before, table]).unify_dictionaries()
    run.folder.write_table("gradients", name, table)


class _Pushes:
    """A shard's directions, each at its response and position, times the node's weight."""

    def __init__(self, run: Run, shard: str) -> None:
        nodes = run.folder.read_table("nodes", shard)
        special = nodes["special"].to_pylist()
        self._place: dict[str, tuple[str, int, float]] = {}
        self.nodes_of: dict[str, list[str]] = {}
        for node, spine, position, inclusion, is_special in zip(
            *(nodes[name].to_pylist() for name in ("node_id", "spine_id", "position")),
            nodes["inclusion_prob"].to_pylist(),
            special,
            strict=True,
        ):
            weight = 0.0 if run.config.mask_special and is_special else 1.0 / inclusion
            self._place[node] = (spine, position, weight)
            self.nodes_of.setdefault(spine, []).append(node)
        branches = run.folder.read_table("branches", shard)
        self._tokens: dict[str, list[int]] = {}
        ideal: dict[str, list[float]] = {}
        mass: Counter[str] = Counter()
        for node, token, prob, value in zip(
            *(
                branches[name].to_pylist()
                for name in ("node_id", "token_id", "student_prob", "ideal")
            ),
            strict=True,
        ):
            self._tokens.setdefault(node, []).append(token)
            ideal.setdefault(node, []).append(math.nan if value is None else value)
            mass[node] += prob
        self._of: dict[tuple[Arm, str], dict[str, tuple[Sequence[float], ...]]] = {}
        self._others: dict[tuple[Arm, str], list[int]] = {}
        whole = (Arm(NO_TEACHER, IDEAL), "direction")
        for node, values in ideal.items():
            self._of.setdefault(whole, {})[node] = ([mass[node] * v for v in values],)
        table = run.folder.read_table("directions", shard)
        columns = ("node_id", "teacher", "method", "direction", "other_ids", "other_direction")
        halves = ("half0", "half1")
        for node, teacher, method, inside, others, outside, *half in zip(
            *(table[name].to_pylist() for name in (*columns, *halves)), strict=True
        ):
            arm = Arm(teacher, method)
            self._others[arm, node] = others or []
            self._of.setdefault((arm, "direction"), {})[node] = (inside or [], outside or [])
            for name, values in zip(halves, half, strict=True):
                if values is not None:
                    self._of.setdefault((arm, name), {})[node] = (values,)

    def weight(self, node: str) -> float:
        """Return one over a node's inclusion probability, 0 where it is left out."""
        return self._place[node][2]

    def position(self, node: str) -> int:
        """Return a node's position in its response."""
        return self._place[node][1]

    def of(
        self, arm: Arm, part: str, numbers: Mapping[str, int], factors: Mapping[str, float]
    ) -> list[Push]:
        """Return where an arm pushes.

        Args:
            arm: the arm.
            part: direction, or half0 or half1 of the rollouts.
            numbers: of the spines that count.
            factors: what the direction is multiplied by, by node.
        """
        found = self._of.get((arm, part), {})
        pushes = []
        for spine, number in numbers.items():
            for node in self.nodes_of.get(spine, []):
                if node not in found or not factors[node]:
                    continue
                tokens = [*self._tokens[node], *self._others.get((arm, node), [])]
                values = np.nan_to_num(
                    np.concatenate([np.asarray(v, dtype=np.float64) for v in found[node]])
                )
                tokens_T = np.asarray(tokens[: len(values)], dtype=np.int64)
                pushes.append(Push(number, self.position(node), tokens_T, factors[node] * values))
        return pushes


class _QuestionUpdates:
    """One question's updates, from a graph for each half of its responses."""

    def __init__(
        self,
        run: Run,
        model: torch.nn.Module,
        parameters: Sequence[torch.Tensor],
        sketch: Sketch,
        spines: Sequence[StoredSpine],
        pushes: _Pushes,
    ) -> None:
        self._sketch, self._pushes = sketch, pushes
        self._count = len(spines)
        self._halves: list[tuple[dict[str, int], LogitGradients]] = []
        for group in (spines[0::2], spines[1::2]):
            if not group:
                continue
            numbers = {spine.spine_id: number for number, spine in enumerate(group)}
            nodes = [pushes.nodes_of.get(spine.spine_id, []) for spine in group]
            gradients = LogitGradients(
                model,
                parameters,
                [ForcedSequence(spine.prompt_ids, spine.token_ids) for spine in group],
                [[pushes.position(node) for node in own] for own in nodes],
                batch_tokens=run.config.batch_tokens,
            )
            self._halves.append((numbers, gradients))
        every = [node for spine in spines for node in pushes.nodes_of.get(spine.spine_id, [])]
        self._weights = {node: pushes.weight(node) for node in every}
        question = spines[0].question_id if spines else ""
        signs = run.rng("signs of weights", question).choice([-1.0, 1.0], size=len(every))
        self._excess = {
            node: sign * math.sqrt(max(weight * (weight - 1.0), 0.0))
            for (node, weight), sign in zip(self._weights.items(), signs, strict=True)
        }

    def row(self, arm: Arm) -> dict[str, object]:
        """Return an arm's update, as the table `gradients` has it."""
        both = [self._along(half, arm, "direction", self._weights) for half in self._halves]
        if not both:
            return {
                "sketch": [np.zeros(self._sketch.width, np.float32)],
                **dict.fromkeys(("length2", "within2", "response_variance"), 0.0),
            }
        total = [sum(parts) / self._count for parts in zip(*both, strict=True)]
        sketched = self._sketch.of(total).cpu().numpy()
        if arm.method == IDEAL:
            known = dict.fromkeys(("length2", "within2", "response_variance"), math.nan)
            return {"sketch": [sketched], **known}
        counts = [len(numbers) for numbers, _ in self._halves]
        own = [
            self._length2(half, arm, vector) / count**2
            for half, vector, count in zip(self._halves, both, counts, strict=True)
        ]
        within = variance = math.nan
        length2 = own[0]
        if len(both) == 2:
            within = _product(*both) / math.prod(counts)
            parts = [(own_h - within) * count for own_h, count in zip(own, counts, strict=True)]
            variance = sum(parts) / len(parts)
            length2 = within + variance / self._count
        return {
            "sketch": [sketched],
            "length2": length2,
            "within2": within,
            "response_variance": variance,
        }

    def _length2(
        self, half: tuple[dict[str, int], LogitGradients], arm: Arm, whole: list[torch.Tensor]
    ) -> float:
        """Return a half's squared length, without the noise of nodes and rollouts."""
        parts = ("direction", "direction")
        if methods.get(arm.method).uses_continuations:
            parts = ("half0", "half1")
            length2 = _product(*(self._along(half, arm, part, self._weights) for part in parts))
        else:
            length2 = _product(whole, whole)
        if any(self._excess.values()):
            noise = [self._along(half, arm, part, self._excess) for part in dict.fromkeys(parts)]
            length2 -= _product(noise[0], noise[-1])
        return length2

    def _along(
        self,
        half: tuple[dict[str, int], LogitGradients],
        arm: Arm,
        part: str,
        factors: Mapping[str, float],
    ) -> list[torch.Tensor]:
        numbers, gradients = half
        return gradients.along(self._pushes.of(arm, part, numbers, factors))


def _product(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """Return the inner product of two gradients; tensors are summed up in float64."""
    return sum(
        float(one.flatten() @ other.flatten()) for one, other in zip(left, right, strict=True)
    )
