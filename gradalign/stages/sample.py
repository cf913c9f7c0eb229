"""Stage 1: the student answers every question a few times; each answer is a spine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.engines import start_engine_ahead
from gradalign.engines.base import Completion
from gradalign.engines.requests import Request
from gradalign.engines.seeds import derive_seed
from gradalign.models.numbers import naming
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.noise_floor import engine_scores
from gradalign.stages.student import ResponseReader, StudentTools, open_reader, open_student
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
        """Hold the student's engine and the verifiers; no engine where all is sampled already."""
        if all(_is_sampled(run, shard) for shard in run.shards() if not self.done(run, shard)):
            with open_reader(run) as reader:
                yield lambda shard, tick: _verify_again(run, reader, shard, tick)
            return
        with open_student(run, self.name) as tools:
            yield (
                lambda shard, tick: (
                    _verify_again(run, tools, shard, tick)
                    if _is_sampled(run, shard)
                    else _sample(run, tools, shard, tick)
                )
            )
        if not run.student_engine.is_open:
            # The branch stage is the next to open it, after the stages of the teachers.
            start_engine_ahead(run.resolved.engine, run.config.base_urls, run.config.device)


@dataclass(frozen=True)
class _Drawn:
    """One response as the engine gave it."""

    item: StoredQuestion
    number: int
    token_ids: npt.NDArray[np.int32]
    finish_reason: str
    seed: int
    logprobs: npt.NDArray[np.float32] | Sequence[float] | None


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
    with naming(f"student {run.config.student}", lambda i: owners[i][0].question.id):
        scores = engine_scores(
            run,
            tools.engine,
            [(r.prompt_ids, c.token_ids) for r, c in zip(requests, drawn, strict=True)],
        )
    responses = [
        _Drawn(item, i, completion.token_ids, completion.finish_reason, request.seed, score)
        for (item, i), request, completion, score in zip(
            owners, requests, drawn, scores, strict=True
        )
    ]
    return _verify_and_write(run, tools, shard, responses)


def _is_sampled(run: Run, shard: str) -> bool:
    return run.folder.has_table("sampled", shard)


def _verify_again(run: Run, tools: ResponseReader, shard: str, tick: Tick) -> Counter[str]:
    """Verify responses that were sampled for the same run under another verifier."""
    stored = {item.question.id: item for item in read_questions(run.folder, shard)}
    responses = [
        _Drawn(
            stored[row["question_id"]],
            int(row["spine_id"].rpartition("/")[2]),
            np.asarray(row["token_ids"], dtype=np.int32),
            row["finish_reason"],
            row["seed"],
            row["engine_logprobs"],
        )
        for row in run.folder.read_table("sampled", shard).to_pylist()
    ]
    tick(len(responses), len(responses), len(responses))
    return _verify_and_write(run, tools, shard, responses)


def _verify_and_write(
    run: Run, tools: ResponseReader, shard: str, responses: Sequence[_Drawn]
) -> Counter[str]:
    texts = tools.texts([response.token_ids for response in responses])
    verdicts = tools.verify(
        [
            (text, response.item.question, response.finish_reason)
            for text, response in zip(texts, responses, strict=True)
        ]
    )
    rows = Rows("spines")
    for response, text, verdict in zip(responses, texts, verdicts, strict=True):
        rows.add(
            question_id=response.item.question.id,
            spine_id=spine_id(response.item, response.number),
            token_ids=[response.token_ids],
            text=text,
            reward=verdict.reward,
            correct=None if verdict.reward is None else verdict.reward == 1.0,
            finish_reason=response.finish_reason,
            num_tokens=len(response.token_ids),
            seed=response.seed,
            verifier_error=verdict.error_kind or "",
            read_by=verdict.read_by,
            answer_read=verdict.answer,
            engine_logprobs=[response.logprobs],
        )
    run.folder.write_table("spines", shard, rows.table_of())
    return Counter(
        spines=len(responses),
        correct_spines=sum(verdict.reward == 1.0 for verdict in verdicts),
        truncated_spines=sum(response.finish_reason == "length" for response in responses),
        spine_tokens=int(np.sum([len(response.token_ids) for response in responses])),
        verifier_failures=sum(verdict.error_kind is not None for verdict in verdicts),
    )


def spine_id(item: StoredQuestion, number: int) -> str:
    """Return the id of a question's spine."""
    return f"{item.question.id}/{number}"
