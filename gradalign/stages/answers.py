"""How often is a teacher right by itself? It answers some of the run's questions in its context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from gradalign.contexts import TeacherSpec
from gradalign.engines.base import Completion
from gradalign.engines.requests import Request
from gradalign.engines.seeds import derive_seed
from gradalign.models.numbers import naming
from gradalign.questions import Question
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.student import Prompter, StudentTools, open_reader, with_engine
from gradalign.stages.teacher_engine import teacher_engine
from gradalign.store.shard import read_shard
from gradalign.store.table_builder import Rows

TABLE = "teacher_answers"

_UNANSWERED: dict[str, Any] = {
    "token_ids": [None],
    "text": None,
    "reward": None,
    "finish_reason": None,
    "num_tokens": 0,
    "seed": None,
    "verifier_error": "",
}
"""The row of a question of which the teacher's context has nothing to show."""


@dataclass(frozen=True)
class _Asked:
    """A question, and the teacher's prompt; None where its context has nothing to show."""

    question: Question
    prompt_ids: Sequence[int] | None


@dataclass(frozen=True)
class TeacherAnswers:
    """One checkpoint answers the run's first `teacher_accuracy` questions, in all its contexts.

    Each is answered once, drawn as the student's responses are. A context that shows attempts
    shows those of the question's first spine; a question of which it has nothing to show is not
    answered.

    Args:
        model: the checkpoint.
        teachers: the teachers with that checkpoint.
    """

    kind: ClassVar[StageKind] = "answers"
    unit: ClassVar[str] = "answers"
    model: str
    teachers: tuple[TeacherSpec, ...]

    @property
    def name(self) -> str:
        """See Stage."""
        return f"answer questions: {self.model}"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every context's answers are there, of as many questions as are asked for."""
        wanted = asked_questions(run).get(shard, 0)
        return all(_num_asked(run, shard, teacher.label) >= wanted for teacher in self.teachers)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the engine, the verifiers and all prompts."""
        prompters = [Prompter(run, teacher) for teacher in self.teachers]
        asked = {
            shard: {item.teacher.label: _prompts(run, item, shard, count) for item in prompters}
            for shard, count in asked_questions(run).items()
            if not self.done(run, shard)
        }
        longest = max(
            (
                len(item.prompt_ids or ())
                for by_label in asked.values()
                for items in by_label.values()
                for item in items
            ),
            default=0,
        )
        room = longest + run.resolved.max_tokens
        with open_reader(run) as reader, teacher_engine(run, self.model, room) as engine:
            tools = with_engine(reader, engine)

            def work(shard: str, tick: Tick) -> Counter[str]:
                counts: Counter[str] = Counter()
                for label, items in asked.get(shard, {}).items():
                    counts += _answer(run, tools, shard, label, items, tick)
                return counts

            yield work


def asked_questions(run: Run) -> dict[str, int]:
    """Return how many questions of each shard are asked: the run's first `teacher_accuracy`."""
    left, found = run.config.teacher_accuracy, {}
    for shard in run.shards():
        if left <= 0:
            break
        count = run.folder.read_table("questions", shard).num_rows
        found[shard] = min(left, count)
        left -= count
    return found


def _num_asked(run: Run, shard: str, label: str) -> int:
    name = teacher_file(shard, label)
    return run.folder.read_table(TABLE, name).num_rows if run.folder.has_table(TABLE, name) else 0


def _prompts(run: Run, prompter: Prompter, shard: str, count: int) -> list[_Asked]:
    """Return the first questions of a shard, with what the teacher reads before it answers."""
    stored = read_shard(run.folder, shard)
    by_spine = prompter.spine_prompts(stored)
    return [
        _Asked(item.question, next((by_spine[spine.spine_id] for spine in spines), None))
        for item, spines in list(stored.by_question())[:count]
    ]


def _answer(
    run: Run, tools: StudentTools, shard: str, label: str, asked: Sequence[_Asked], tick: Tick
) -> Counter[str]:
    """Have a teacher answer, and write what came of it."""
    shown = [item for item in asked if item.prompt_ids is not None]
    requests = [
        Request(
            tuple(item.prompt_ids or ()),
            run.resolved.max_tokens,
            derive_seed(
                run.config.seed,
                f"answers\x00{label}\x00{item.question.id}",
                item.prompt_ids or (),
                0,
            ),
        )
        for item in shown
    ]
    made: list[Completion | None] = [None] * len(requests)
    finished = tools.engine.generate(requests) if requests else iter(())
    with naming(f"teacher {label}", lambda i: shown[i].question.id):
        for number, (index, completion) in enumerate(finished, start=1):
            made[index] = completion
            tick(number, len(requests), 1)
    drawn = [completion for completion in made if completion is not None]
    texts = tools.texts([completion.token_ids for completion in drawn])
    verdicts = tools.verify(
        [
            (text, item.question, completion.finish_reason)
            for text, item, completion in zip(texts, shown, drawn, strict=True)
        ]
    )
    answers = {
        item.question.id: {
            "token_ids": [completion.token_ids],
            "text": text,
            "reward": verdict.reward,
            "finish_reason": completion.finish_reason,
            "num_tokens": len(completion.token_ids),
            "seed": request.seed,
            "verifier_error": verdict.error_kind or "",
        }
        for item, request, completion, text, verdict in zip(
            shown, requests, drawn, texts, verdicts, strict=True
        )
    }
    rows = Rows(TABLE)
    for item in asked:
        given = answers.get(item.question.id, _UNANSWERED)
        rows.add(question_id=item.question.id, teacher=label, **given)
    run.folder.write_table(TABLE, teacher_file(shard, label), rows.table_of())
    return Counter(
        teacher_answers=len(drawn),
        teacher_answer_tokens=sum(len(completion.token_ids) for completion in drawn),
    )


def num_answers(run: Run, num_questions: int) -> int:
    """Return how many answers are drawn, for the plan; a context may lack some."""
    return min(run.config.teacher_accuracy, num_questions) * len(run.read_teachers)
