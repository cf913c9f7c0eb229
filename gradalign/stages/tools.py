"""What several stages hold: the student's engine, the verifiers, a teacher's prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.contexts import TeacherSpec
from gradalign.contexts import get as get_context
from gradalign.errors import ContextOverflowError
from gradalign.models import context_length, load_config, resolve_model
from gradalign.models.prompts import render
from gradalign.models.tokenizers import check_ids_known, load_tokenizer
from gradalign.rollouts import open_engine
from gradalign.rollouts.base import Engine, FinishReason
from gradalign.stages.base import Run
from gradalign.stages.records import StoredQuestions, read_questions, read_spines
from gradalign.tasks.base import Question
from gradalign.verifiers import Verdict, VerifierPool


@dataclass(frozen=True)
class StudentTools:
    """The student as a sampler, with its tokenizer and the verifiers."""

    engine: Engine
    tokenizer: Any
    pool: VerifierPool
    response_prefix: str

    def texts(self, responses: Sequence[npt.NDArray[np.int32]]) -> list[str]:
        """Decode responses, without special tokens, behind the response prefix; equal ones once."""
        distinct = {ids_T.tobytes(): ids_T for ids_T in responses}
        text_of = {
            key: self.response_prefix + str(self.tokenizer.decode(ids_T, skip_special_tokens=True))
            for key, ids_T in distinct.items()
        }
        return [text_of[ids_T.tobytes()] for ids_T in responses]

    def token_text(self, token_id: int) -> str:
        """Return the text of one token, special tokens included."""
        return str(self.tokenizer.decode([token_id]))

    def verify(self, items: Sequence[tuple[str, Question, FinishReason | str]]) -> list[Verdict]:
        """Score (text, question, finish reason); a response that was cut off gets 0."""
        finished = [i for i, item in enumerate(items) if item[2] != "length"]
        verdicts = [Verdict(0.0, None)] * len(items)
        scored = self.pool.score([(items[i][0], items[i][1]) for i in finished])
        for i, verdict in zip(finished, scored, strict=True):
            verdicts[i] = verdict
        return verdicts


@contextmanager
def open_student(run: Run) -> Iterator[StudentTools]:
    """Open the student's engine and the verifier processes for a stage."""
    config = run.config
    with ExitStack() as stack:
        tokenizer = load_tokenizer(
            resolve_model(config.student), config.revision, config.trust_remote_code
        )
        pool = stack.enter_context(
            VerifierPool(
                run.resolved.verifier, config.verify_workers, config.verify_timeout_seconds
            )
        )
        engine = stack.enter_context(
            open_engine(
                run.resolved.engine,
                resolve_model(config.student),
                sampling=run.sampling,
                max_model_len=run.resolved.max_model_len,
                dtype=config.dtype,
                device=config.device,
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
                engine_args=config.engine_args,
                base_urls=config.base_urls,
                tokens=run.tokens,
            )
        )
        yield StudentTools(engine, tokenizer, pool, config.response_prefix)


class Prompter:
    """Makes one teacher's prompts."""

    def __init__(self, run: Run, teacher: TeacherSpec) -> None:
        self._run = run
        self.teacher = teacher
        model = run.model_of(teacher)
        options = run.model_options(model)
        self._tokenizer = load_tokenizer(
            resolve_model(model), options["revision"], options["trust_remote_code"]
        )
        self._limit = context_length(
            load_config(
                model,
                revision=options["revision"],
                trust_remote_code=options["trust_remote_code"],
            )
        )
        self._context = get_context(teacher.context, StoredQuestions(run.folder))
        self._texts: dict[int, str] = {}
        student = load_tokenizer(
            resolve_model(run.config.student), run.config.revision, run.config.trust_remote_code
        )
        own = set(self._tokenizer.get_vocab().values())
        self._foreign = set(student.get_vocab().values()) - own

    def spine_prompts(self, shard: str) -> dict[str, list[int] | None]:
        """Return the teacher's prompt for every spine of a shard; None: context not available.

        Raises:
            ContextOverflowError: a prompt and its response exceed the teacher's context.
            TokenizerMismatchError: the student used a token that the teacher does not know.
        """
        spines = read_spines(self._run.folder, shard)
        prompts: dict[str, list[int] | None] = {}
        for item in read_questions(self._run.folder, shard):
            group = spines.get(item.question.id, [])
            attempts = [spine.attempt for spine in group]
            for spine in group:
                foreign = self._foreign & set(spine.token_ids.tolist())
                check_ids_known(
                    foreign, self._tokenizer, f"teacher {self.teacher.label}", spine.spine_id
                )
                others = [attempt for attempt in attempts if attempt.spine_id != spine.spine_id]
                prompt = self._context.prompt(item.question, spine.attempt, others)
                ids = None if prompt is None else self.render(prompt)
                if (
                    ids is not None
                    and self._limit
                    and len(ids) + len(spine.token_ids) > self._limit
                ):
                    raise ContextOverflowError(
                        f"question {item.question.id}: teacher {self.teacher.label} would read "
                        f"{len(ids)} prompt and {len(spine.token_ids)} response tokens, its "
                        f"context is {self._limit}.",
                        "Use a shorter context or a smaller --max-tokens.",
                    )
                prompts[spine.spine_id] = ids
        return prompts

    def render(self, prompt: Any) -> list[int]:
        """Turn a teacher's prompt into token ids."""
        config = self._run.config
        return render(
            self._tokenizer,
            prompt,
            chat_template=self._run.teacher_template,
            template_kwargs=config.teacher_chat_template_kwargs,
            response_prefix=config.response_prefix,
        )

    def token_texts(self, token_ids: npt.NDArray[np.int32]) -> list[str]:
        """Return the text of each token."""
        for token in set(token_ids.tolist()) - self._texts.keys():
            self._texts[token] = str(self._tokenizer.decode([token]))
        return [self._texts[token] for token in token_ids.tolist()]
