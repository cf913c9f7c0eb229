"""How each node's logits change along the ideal update of all other questions.

With G the mean of the other questions' ideal updates, a_u = J_u G is what a small step along G
does to the logits of node u. A direction m_u at the node moves the weights so that the others gain
a_u . m_u of success, to first order: one derivative gives that number for every teacher and method,
also for those that are added later. No question meets its own rollouts in it. Axes: _V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradalign.models.derivatives import BatchDerivative, derivatives, step_along
from gradalign.models.weight_space import Sketch
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.weights.gradients import (
    IDEAL,
    NO_TEACHER,
    NodePlaces,
    add_updates,
    derivative_way,
    derivatives_are_there,
    has_derivatives,
    ideal_update,
    num_questions,
    open_space,
    read_sum,
    remove_sums,
    responses_of,
    updates_there,
)
from gradalign.store.shard import StoredSpine, read_positions, read_shard
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class IdealDerivatives:
    """Derivatives of the student's logits along the ideal updates, and sketches of these."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "derivatives"
    unit: ClassVar[str] = "questions"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's derivatives are there."""
        return has_derivatives(run, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, and the sum of all questions' ideal updates."""
        with open_space(run) as (model, parameters):
            passes: list[_Passes] = []

            def work(shard: str, tick: Tick) -> Counter[str]:
                if not passes:  # a worker that comes too late finds no sums, and needs none
                    passes.append(_Passes(run, model, parameters))
                return passes[0].write(shard, tick)

            yield work
        if derivatives_are_there(run):
            remove_sums(run)


class _Passes:
    def __init__(
        self, run: Run, model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]
    ) -> None:
        self._run, self._model, self._parameters = run, model, parameters
        self._sketch = Sketch(parameters)
        self._total = read_sum(run, parameters)
        self._count = num_questions(run)
        self._way = derivative_way(run.config)
        self._step = self._find_step()

    def write(self, shard: str, tick: Tick) -> Counter[str]:
        """Write a shard's ideal sketches and derivatives, these last."""
        run = self._run
        places, support = NodePlaces(run, shard), _supports(run, shard)
        groups = list(read_shard(run.folder, shard).by_question())
        sketches, rows = Rows("gradients"), Rows("derivatives")
        for done, (question, spines) in enumerate(groups, start=1):
            responses = responses_of(run, self._model, spines, places)
            own = ideal_update(responses, self._parameters, spines, places)
            sketches.add(
                1,
                question_id=question.question.id,
                teacher=NO_TEACHER,
                method=IDEAL,
                split="all",
                num_responses=len(spines),
                sketch=[self._sketch.of(own).cpu().numpy()],
                **dict.fromkeys(("length2", "within2", "response_variance"), math.nan),
            )
            scale = 1.0 / max(self._count - 1, 1)
            others = [(whole - part) * scale for whole, part in zip(self._total, own, strict=True)]
            del own
            for batch in derivatives(
                self._model,
                self._parameters,
                others,
                responses,
                way=self._way,
                step=self._step,
            ):
                rows_of_batch = _rows_of(batch, spines, places, support)
                if self._count < 2:  # there are no others
                    rows_of_batch["derivative"] = [None] * len(rows_of_batch["node_id"])
                    rows_of_batch["rest"] = math.nan
                count = len(rows_of_batch["node_id"])
                rows_of_batch["num_questions"] = self._count
                rows.add(count, question_id=question.question.id, **rows_of_batch)
            tick(done, len(groups), 1)
        if IDEAL not in updates_there(run, shard, NO_TEACHER):
            add_updates(run, shard, NO_TEACHER, sketches.table_of())
        run.folder.remove_table("alignment", shard)  # what is made of those that were there
        run.folder.write_table("derivatives", shard, rows.table_of())
        return Counter()

    def _find_step(self) -> float:
        """Find the step of differences on the run's first question that has nodes."""
        run = self._run
        if self._way != "differences" or self._count < 2:
            return 0.0
        direction = [part / self._count for part in self._total]
        for shard in run.shards():
            places = NodePlaces(run, shard)
            for _, spines in read_shard(run.folder, shard).by_question():
                responses = responses_of(run, self._model, spines, places)
                if responses.batches:
                    return step_along(self._model, self._parameters, direction, responses)
        return 0.0


def _supports(run: Run, shard: str) -> dict[str, set[int]]:
    """Return the tokens that a node's derivative is kept on, but for the candidates.

    These are the student's top tokens there and all that a teacher's distribution is stored on.
    """
    found: dict[str, set[int]] = {}
    for spine, positions in read_positions(run.folder, shard).items():
        for position, ids in zip(positions.chosen.tolist(), positions.node_top_ids, strict=True):
            found[f"{spine}/{position}"] = set(ids.tolist())
    for teacher in run.teachers:
        name = teacher_file(shard, teacher.label)
        if run.folder.has_table("distributions", name):
            table = run.folder.read_table("distributions", name, ["node_id", "token_ids"])
            for node, ids in zip(*(table[c].to_pylist() for c in table.column_names), strict=True):
                found.setdefault(str(node), set()).update(ids)
    return found


def _rows_of(
    batch: BatchDerivative,
    spines: Sequence[StoredSpine],
    places: NodePlaces,
    support: dict[str, set[int]],
) -> dict[str, Any]:
    """Return columns of the table `derivatives` for the nodes of a batch."""
    import torch

    made: dict[str, list[Any]] = {
        name: [] for name in ("node_id", "token_ids", "derivative", "rest", "rest_prob")
    }
    for number, place in batch.places.items():
        for node in places.nodes_of(spines[number]):
            column = batch.columns[number, places.position[node]]
            a_V = batch.derivative[place, column].double()
            p_V = batch.logits[place, column].double().softmax(-1)
            tokens = sorted(support.get(node, set()) | set(places.candidates[node]))
            at = torch.tensor(tokens, device=a_V.device)
            p_V[at] = 0.0
            mass = float(p_V.sum())
            made["node_id"].append(node)
            made["token_ids"].append(tokens)
            made["derivative"].append(a_V[at].cpu().numpy())
            made["rest"].append(float(a_V @ p_V) / mass if mass > 0 else 0.0)
            made["rest_prob"].append(mass)
    return made
