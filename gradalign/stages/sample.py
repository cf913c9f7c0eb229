"""Stage 1: the student answers every question a few times; each answer is a spine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradalign.engines import start_engine_ahead
from gradalign.engines.base import Completion, Request
from gradalign.engines.seeds import derive_seed
from gradalign.models.numbers import naming
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.noise_floor import engine_scores
from gradalign.stages.student import StudentTools, open_student
from gradalign.store.shard import StoredQuestion, read_questions
from gradalign.store.table_builder import Rows


@dataclass(frozen=True)
class Sample:
    """Draw `num_rollouts` spines per question and verify them."""

    kind: ClassVar[StageKind] = "sample"
    name: ClassVar[str] = "sample"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's spines are there."""
        return run.folder.has_table("spines", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student's engine and the verifiers."""
        with ExitStack() as stack:
            tools = stack.enter_context(open_student(run))
            yield lambda shard, tick: _sample(run, tools, shard, tick)
        # The branch stage is the next to open it, after the stages of the teachers.
        start_engine_ahead(run.resolved.engine, run.config.base_urls, run.config.device)


def _sample(run: Run, tools: StudentTools, shard: str, tick: Tick) -> Counter[str]:
    stored = read_questions(run.folder, shard)
    owners = [(item, i) for item in stored for i in range(run.config.num_rollouts)]
    requests = [
        Request(
            prompt_ids=item.prompt_ids,
            max_tokens=run.resolved.max_tokens,
            seed=derive_seed(run.config.seed, item.question.id, item.prompt_ids, i),
        )
        for item, i in owners
    ]
    completions: list[Completion | None] = [None] * len(requests)
    with naming(f"student {run.config.student}", lambda i: owners[i][0].question.id):
        for done, (index, completion) in enumerate(tools.engine.generate(requests), start=1):
            completions[index] = completion
            tick(done, len(requests), 1)
    drawn = [completion for completion in completions if completion is not None]
    texts = tools.texts([completion.token_ids for completion in drawn])
    verdicts = tools.verify(
        [
            (text, item.question, completion.finish_reason)
            for text, (item, _), completion in zip(texts, owners, drawn, strict=True)
        ]
    )
    with naming(f"student {run.config.student}", lambda i: owners[i][0].question.id):
        scores = engine_scores(
            run,
            tools.engine,
            [(r.prompt_ids, c.token_ids) for r, c in zip(requests, drawn, strict=True)],
        )
    rows = Rows("spines")
    for (item, i), request, completion, text, verdict, score in zip(
        owners, requests, drawn, texts, verdicts, scores, strict=True
    ):
        rows.add(
            question_id=item.question.id,
            spine_id=spine_id(item, i),
            token_ids=[completion.token_ids],
            text=text,
            reward=verdict.reward,
            correct=None if verdict.reward is None else verdict.reward == 1.0,
            finish_reason=completion.finish_reason,
            num_tokens=len(completion.token_ids),
            seed=request.seed,
            verifier_error=verdict.error_kind or "",
            read_by=verdict.read_by,
            answer_read=verdict.answer,
            engine_logprobs=[score],
        )
    run.folder.write_table("spines", shard, rows.table_of())
    return Counter(
        spines=len(drawn),
        correct_spines=sum(verdict.reward == 1.0 for verdict in verdicts),
        truncated_spines=sum(c.finish_reason == "length" for c in drawn),
        spine_tokens=int(np.sum([len(c.token_ids) for c in drawn])),
        verifier_failures=sum(verdict.error_kind is not None for verdict in verdicts),
    )


def spine_id(item: StoredQuestion, number: int) -> str:
    """Return the id of a question's spine."""
    return f"{item.question.id}/{number}"
