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
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pyarrow as pa

from gradalign.analysis.align import question_ids
from gradalign.analysis.gradients import WHOLE, StoredPushes
from gradalign.estimates import Arm
from gradalign.models.gradients import LogitGradients
from gradalign.models.optimizer_state import AdamwStep, adamw_step
from gradalign.models.weight_space import Sketch
from gradalign.runtime import available_bytes
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.weights.gradients import open_space, responses_of
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
        wanted = set(itertools.chain.from_iterable(map(_keys, batches_of(run, shard))))
        there: dict[Arm, set[tuple[str, ...]]] = {}
        if run.folder.has_table("steps", shard):
            table = run.folder.read_table("steps", shard, ["question_ids", "teacher", "method"])
            for names, teacher, method in zip(
                *(table[name].to_pylist() for name in table.column_names), strict=True
            ):
                there.setdefault(Arm(teacher, method), set()).add(tuple(names))
        # A run that has more questions since has a batch more, or a fuller one.
        return [arm for arm in self.arms if not wanted <= there.get(arm, set())]


class Batch(NamedTuple):
    """Questions in order; of the last ones of a run there may be too few for a batch."""

    questions: tuple[str, ...]
    whole: bool


def batches(run: Run) -> list[Batch]:
    """Return the run's questions by `weights_batch`, in order."""
    ids, size = question_ids(run), run.config.weights_batch
    parts = [tuple(ids[begin : begin + size]) for begin in range(0, len(ids), size)]
    return [Batch(part, len(part) == size) for part in parts]


def batches_of(run: Run, shard: str) -> list[Batch]:
    """Return the batches that begin in a shard."""
    own = {item.question.id for item in read_questions(run.folder, shard)}
    return [batch for batch in batches(run) if batch.questions[0] in own]


def _keys(batch: Batch) -> list[tuple[str, ...]]:
    """Return what steps are taken on: each question, and all of them where they are a batch."""
    single = [(name,) for name in batch.questions]
    return [*single, batch.questions] if batch.whole else list(single)


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
        run, rows = self._run, Rows("steps")
        todo = batches_of(run, shard)
        total, done = sum(len(batch.questions) for batch in todo) * len(arms), 0
        for batch in todo:
            for some in self._portions(arms):
                sums: dict[Arm, list[torch.Tensor]] = {}
                for question, spines, pushes in self._questions(batch.questions):
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
                if batch.whole and len(batch.questions) > 1:
                    for arm, own in sums.items():
                        self._add(rows, arm, batch.questions, own)
        table = rows.table_of()
        if run.folder.has_table("steps", shard):
            stored = run.folder.read_table("steps", shard)
            names = zip(stored["teacher"].to_pylist(), stored["method"].to_pylist(), strict=True)
            kept = [Arm(*name) not in arms for name in names]
            table = pa.concat_tables([stored.filter(kept), table]).unify_dictionaries()
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
