"""What learning a teacher's own answers by heart would do: the student's gradients on them.

GRACE (`gradalign.alignment.grace`) is made of these. They are there where a run has both teachers'
answers (`--teacher-accuracy`) and the student with gradients (`--alignment weights`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gradalign.models.distributions import ForcedSequence
from gradalign.models.gradients import ForcedResponses
from gradalign.models.weight_space import Sketch
from gradalign.runtime import model_pass
from gradalign.stages.answers import TABLE as ANSWERS
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.weights.gradients import open_space
from gradalign.store.shard import read_questions
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

TABLE = "answer_gradients"

WIDTH = 509
"""Entries of a projected gradient: the prime next to the 512 of the paper; see `Sketch`."""


@dataclass(frozen=True)
class AnswerGradients:
    """The student's gradient on every answer of every teacher, projected."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "gradients on answers"
    unit: ClassVar[str] = "answers"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every answer of the shard has its gradient."""
        return not self._missing(run, shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients."""
        with open_space(run) as (model, parameters):
            sketch = Sketch(parameters, WIDTH)

            def work(shard: str, tick: Tick) -> Counter[str]:
                prompts = {
                    item.question.id: item.prompt_ids for item in read_questions(run.folder, shard)
                }
                missing = self._missing(run, shard)
                total, made = sum(map(len, missing.values())), 0
                for label, answers in missing.items():
                    rows = Rows(TABLE)
                    for name, ids in answers.items():
                        gradient = likelihood_gradient(model, parameters, prompts[name], ids)
                        sketched = sketch.of(gradient).cpu().numpy()
                        rows.add(question_id=name, teacher=label, sketch=[sketched])
                        made += 1
                        tick(made, total, 1)
                    run.folder.write_table(TABLE, teacher_file(shard, label), rows.table_of())
                return Counter(answer_gradients=made)

            yield work

    def _missing(self, run: Run, shard: str) -> dict[str, dict[str, Sequence[int]]]:
        """Return, by teacher and question, the answers of files that lack a gradient."""
        found = {}
        for teacher in run.teachers:
            name = teacher_file(shard, teacher.label)
            if not run.folder.has_table(ANSWERS, name):
                continue
            table = run.folder.read_table(ANSWERS, name).select(["question_id", "token_ids"])
            answers = {row["question_id"]: row["token_ids"] for row in table.to_pylist()}
            given = {question: ids for question, ids in answers.items() if ids}
            there = run.folder.has_table(TABLE, name)
            if not there or run.folder.read_table(TABLE, name).num_rows != len(given):
                found[teacher.label] = given
        return found


def likelihood_gradient(
    model: torch.nn.Module,
    parameters: Sequence[torch.Tensor],
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
) -> list[torch.Tensor]:
    """Return the gradient of an answer's mean negative log-likelihood, a tensor per parameter."""
    import torch

    sequence = ForcedSequence(tuple(prompt_ids), np.asarray(answer_ids, dtype=np.int32))
    forced = ForcedResponses(model, [sequence], [range(len(answer_ids))])
    with torch.enable_grad():
        logits_BKV, columns = forced.logits([0])
        order = [columns[0, position] for position in range(len(answer_ids))]
        tokens_T = torch.tensor(list(answer_ids), device=logits_BKV.device)
        loss = torch.nn.functional.cross_entropy(logits_BKV[0, order].float(), tokens_T)
    with model_pass(logits_BKV.device):
        found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return [
        torch.zeros_like(parameter) if part is None else part
        for parameter, part in zip(parameters, found, strict=True)
    ]
