"""Steps of AdamW under every arm, on batches of questions and on single ones.

The sign of a gradient is not linear: the step on a batch is no mean of steps on its questions. So
each is taken as a training takes it. A batch's update is added up, AdamW makes a step of it, and
the step is kept at length 1 as a sketch. `gradalign.analysis.weights` holds it against the ideal
updates of questions outside the batch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gradalign.analysis.gradients import WHOLE, StoredPushes
from gradalign.analysis.update import question_ids
from gradalign.estimates import Arm
from gradalign.models.gradients import LogitGradients
from gradalign.models.optimizer_state import AdamwStep, adamw_step
from gradalign.models.weight_space import Sketch
from gradalign.runtime import available_bytes
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.gradients import open_space, responses_of
from gradalign.store.shard import StoredSpine, read_questions, read_shard
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AdamwSteps:
    """Steps of AdamW, of every arm; a shard has those of the batches that begin in it.

    Attributes:
        arms: teachers and methods that have a direction.
    """

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "adamw steps"
    unit: ClassVar[str] = "updates"
    arms: tuple[Arm, ...]

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's steps are there for all arms."""
        return not self._missing(run, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients, and what AdamW divides them by."""
        with open_space(run) as (model, parameters):
            step = adamw_step(str(run.config.weights_adamw), model, parameters)
            passes = _Passes(run, model, parameters, step)

            def work(shard: str, tick: Tick) -> Counter[str]:
                passes.write(shard, self._missing(run, shard), tick)
                return Counter()

            yield work

    def _missing(self, run: Run, shard: str) -> list[Arm]:
        if not run.folder.has_table("steps", shard):
            return list(self.arms)
        table = run.folder.read_table("steps", shard, ["teacher", "method"])
        there = set(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
        begins = any(True for _ in batches_of(run, shard))
        return [arm for arm in self.arms if tuple(arm) not in there] if begins else []


def batches(run: Run) -> list[list[str]]:
    """Return the run's questions as batches of `weights_batch` or a few more, in order.

    Fewer questions than that are no batch: there are none, and steps on single questions only.
    """
    ids = question_ids(run)
    number = len(ids) // run.config.weights_batch
    if not number:
        return []
    edges = np.linspace(0, len(ids), number + 1).astype(int)
    return [ids[begin:end] for begin, end in itertools.pairwise(edges)]


def batches_of(run: Run, shard: str) -> Iterator[list[str]]:
    """Yield the batches that begin in a shard; without any, its questions."""
    own = [item.question.id for item in read_questions(run.folder, shard)]
    every = batches(run) or [own]
    yield from (batch for batch in every if batch and batch[0] in own)


class _Passes:
    def __init__(
        self,
        run: Run,
        model: torch.nn.Module,
        parameters: Sequence[torch.nn.Parameter],
        step: AdamwStep,
    ) -> None:
        self._run, self._model, self._parameters, self._step = run, model, parameters, step
        self._sketch = Sketch(parameters)

    def write(self, shard: str, arms: Sequence[Arm], tick: Tick) -> None:
        """Write the steps of some arms beside those that are there."""
        import pyarrow as pa

        run, rows = self._run, Rows("steps")
        whole = {tuple(batch) for batch in batches(run)}
        todo = list(batches_of(run, shard))
        total, done = sum(map(len, todo)) * len(arms), 0
        for batch in todo:
            for some in self._portions(arms):
                sums: dict[Arm, list[torch.Tensor]] = {}
                for question, spines, pushes in self._questions(batch):
                    responses = responses_of(run, self._model, spines, pushes.places)
                    gradients = LogitGradients(responses, self._parameters)
                    for arm in some:
                        pushed = pushes.of(arm, WHOLE, spines, pushes.places.weight)
                        own = gradients.along(pushed)
                        own = [part.float() / max(len(spines), 1) for part in own]
                        self._add(rows, arm, [question], own)
                        before = sums.get(arm)
                        sums[arm] = (
                            own
                            if before is None
                            else [old.add_(new) for old, new in zip(before, own, strict=True)]
                        )
                        done += 1
                        tick(done, total, 1)
                if tuple(batch) in whole and len(batch) > 1:
                    for arm, own in sums.items():
                        self._add(rows, arm, batch, own)
        table = rows.table_of()
        if run.folder.has_table("steps", shard):
            before = run.folder.read_table("steps", shard)
            table = pa.concat_tables([before, table]).unify_dictionaries()
        run.folder.write_table("steps", shard, table)

    def _add(
        self, rows: Rows, arm: Arm, questions: Sequence[str], update: Sequence[torch.Tensor]
    ) -> None:
        sketched = self._sketch.of(self._step.of(update)).cpu().numpy()
        rows.add(
            1,
            question_ids=[list(questions)],
            teacher=arm.teacher,
            method=arm.method,
            sketch=[sketched],
        )

    def _portions(self, arms: Sequence[Arm]) -> Iterator[Sequence[Arm]]:
        """Yield as many arms at a time as half of the free memory has room for sums of."""
        device = str(self._parameters[0].device)
        each = 4 * self._sketch.num_weights
        size = max(1, available_bytes(device) // (2 * each))
        return (arms[begin : begin + size] for begin in range(0, len(arms), size))

    def _questions(
        self, batch: Sequence[str]
    ) -> Iterator[tuple[str, list[StoredSpine], StoredPushes]]:
        """Yield a batch's questions with their responses and directions."""
        wanted = set(batch)
        for shard in self._run.shards():
            own = {item.question.id for item in read_questions(self._run.folder, shard)}
            if not own & wanted:
                continue
            pushes = StoredPushes(self._run, shard)
            for item, spines in read_shard(self._run.folder, shard).by_question():
                if item.question.id in wanted:
                    yield item.question.id, spines, pushes
