"""What several stages hold: the student's engine, the verifiers, a teacher's prompts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.contexts import TeacherSpec
from gradalign.contexts import get as get_context
from gradalign.engines import open_engine
from gradalign.engines.base import Engine, FinishReason
from gradalign.errors import ContextOverflowError
from gradalign.models import context_length, load_config, resolve_model, vocab_size
from gradalign.models.checkpoints.tokenizers import check_ids_known, load_tokenizer
from gradalign.models.frequencies import length_note
from gradalign.models.prompts.render import render
from gradalign.models.prompts.texts import texts_after
from gradalign.questions import Prompt, Question
from gradalign.stages.base import Run
from gradalign.stages.failures import FailureWatch, watch
from gradalign.stages.preparation.prompt_checks import check_rows, naming, without_begin
from gradalign.store.shard import Shard, StoredQuestions
from gradalign.verifiers import Verdict, VerifierPool


@dataclass(frozen=True)
class ResponseReader:
    """The student's tokenizer and the verifiers: what makes verdicts of responses."""

    tokenizer: Any
    pool: VerifierPool
    response_prefix: str
    stop_token_ids: Collection[int]
    failures: FailureWatch

    def texts(self, responses: Sequence[npt.NDArray[np.int32]]) -> list[str]:
        """Decode responses as they were written, behind the response prefix; equal ones once.

        Only the token that ended a response is left out. An answer may hold any other special
        token: tags of thinking, or whatever a tokenizer marks so.
        """
        distinct = {ids_T.tobytes(): ids_T for ids_T in responses}
        texts = texts_after(
            self.tokenizer, [ids_T.tolist() for ids_T in distinct.values()], self.stop_token_ids
        )
        text_of = {
            key: self.response_prefix + text for key, text in zip(distinct, texts, strict=True)
        }
        return [text_of[ids_T.tobytes()] for ids_T in responses]

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text of each token, special tokens included."""
        return texts_after(self.tokenizer, [[token] for token in token_ids])

    def verify(
        self, items: Sequence[tuple[str, Question, FinishReason | str]], *, again: bool = False
    ) -> list[Verdict]:
        """Score (text, question, finish reason); a response that was cut off gets 0.

        Args:
            items: what to score.
            again: these stand in for responses that failed, and are likely to fail as well: they
                do not count in the share of failures.

        Raises:
            VerifierError: too many verifications of the run have failed.
        """
        finished = [i for i, item in enumerate(items) if item[2] != "length"]
        verdicts = [Verdict(0.0, None)] * len(items)
        scored = self.pool.score([(items[i][0], items[i][1]) for i in finished])
        for i, verdict in zip(finished, scored, strict=True):
            verdicts[i] = verdict
        if not again:
            self.failures.add(scored, self.pool.examples)
        return verdicts


@dataclass(frozen=True)
class StudentTools(ResponseReader):
    """The same, with the student as a sampler."""

    engine: Engine


@contextmanager
def open_reader(run: Run, failures: FailureWatch | None = None) -> Iterator[ResponseReader]:
    """Open the verifier processes for a stage.

    Args:
        run: the run.
        failures: counts verifications; by default those of earlier stages too.
    """
    config = run.config
    tokenizer = load_tokenizer(
        resolve_model(config.student), run.revision_of(config.student), config.trust_remote_code
    )
    with VerifierPool(
        run.resolved.verifier, config.verify_workers, config.verify_timeout_seconds
    ) as pool:
        yield ResponseReader(
            tokenizer,
            pool,
            config.response_prefix,
            run.resolved.stop_token_ids,
            failures or watch(run),
        )


@contextmanager
def open_student(run: Run, use: str) -> Iterator[StudentTools]:
    """Have the student's engine and the verifier processes for a stage.

    Args:
        run: the run.
        use: the stage's name.
    """
    with open_reader(run) as reader, student_engine(run, use) as engine:
        yield with_engine(reader, engine)


@contextmanager
def student_engine(run: Run, use: str, max_model_len: int | None = None) -> Iterator[Engine]:
    """Have the student's engine, which may be open from a stage before.

    Args:
        run: the run.
        use: the name of the stage that samples.
        max_model_len: longest prompt and response, where it is not the run's own.
    """
    config = run.config
    longest = max_model_len or run.resolved.max_model_len
    prospect = run.student_engine.prospect

    def opener() -> Engine:
        return open_engine(
            run.resolved.engine,
            resolve_model(config.student),
            sampling=run.sampling,
            max_model_len=longest,
            dtype=config.dtype,
            device=config.device,
            revision=run.revision_of(config.student),
            trust_remote_code=config.trust_remote_code,
            engine_args=config.engine_args,
            base_urls=config.base_urls,
            tokens=run.tokens,
            foreseen=None if prospect is None else prospect.work,
            or_transformers=config.engine == "auto",
        )

    with run.student_engine.lent(opener, use, max_model_len=longest) as engine:
        yield engine


def with_engine(reader: ResponseReader, engine: Engine) -> StudentTools:
    """Add a sampler to what verifies."""
    return StudentTools(
        reader.tokenizer,
        reader.pool,
        reader.response_prefix,
        reader.stop_token_ids,
        reader.failures,
        engine,
    )


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
        settings = load_config(
            model, revision=options["revision"], trust_remote_code=options["trust_remote_code"]
        )
        self._limit, self._limit_note = context_length(settings), length_note(settings)
        self._model, self._num_rows = model, vocab_size(model, settings)
        self._context = get_context(teacher.context, StoredQuestions(run.folder))
        self._texts: dict[int, str] = {}
        student = load_tokenizer(
            resolve_model(run.config.student),
            run.revision_of(run.config.student),
            run.config.trust_remote_code,
        )
        self._foreign: set[int] = set()
        if run.resolved.matching.get(model) != "bytes":  # which reads whatever text there is
            known = run.common_tokens(model)
            self._foreign = {i for i in student.get_vocab().values() if i not in known}

    def spine_prompts(self, shard: Shard) -> dict[str, list[int] | None]:
        """Return the teacher's prompt for every spine of a shard; None: context not available.

        Raises:
            ContextOverflowError: a prompt and its response exceed the teacher's context.
            TokenizerMismatchError: the student used a token that the teacher does not know.
        """
        prompts: dict[str, list[int] | None] = {}
        for item, group in shard.by_question():
            shown = without_begin([spine.attempt for spine in group], self._tokenizer)
            rendered: dict[Prompt, list[int]] = {}
            for spine, attempt in zip(group, shown, strict=True):
                foreign = self._foreign & set(spine.token_ids.tolist())
                check_ids_known(
                    foreign, self._tokenizer, f"teacher {self.teacher.label}", spine.spine_id
                )
                others = [other for other in shown if other.spine_id != spine.spine_id]
                prompt = self._context.prompt(item.question, attempt, others)
                ids = None
                if prompt is not None:  # most contexts show the same to all of a question's spines
                    key = prompt if isinstance(prompt, str) else tuple(prompt)
                    if key not in rendered:
                        rendered[key] = self.render(item.question, prompt)
                    ids = rendered[key]
                if (
                    ids is not None
                    and self._limit
                    and len(ids) + len(spine.token_ids) > self._limit
                ):
                    raise ContextOverflowError(
                        f"question {item.question.id}: teacher {self.teacher.label} would read "
                        f"{len(ids)} prompt and {len(spine.token_ids)} response tokens, its "
                        f"context is {self._limit}{self._limit_note}.",
                        "Use a shorter context or a smaller --max-tokens.",
                    )
                prompts[spine.spine_id] = ids
        return prompts

    def render(self, question: Question, prompt: Prompt) -> list[int]:
        """Turn a teacher's prompt into token ids.

        Raises:
            UsageError: as for the prompts that were looked at before the run.
        """
        config = self._run.config
        with naming(question.id, f"teacher {self.teacher.label}"):
            ids = render(
                self._tokenizer,
                prompt,
                chat_template=self._run.teacher_template,
                template_kwargs=config.teacher_chat_template_kwargs,
                response_prefix=config.response_prefix,
                clock=self._run.resolved.clock,
            )
            check_rows(ids, self._num_rows, self._tokenizer, self._model)
        return ids

    def token_texts(self, token_ids: npt.NDArray[np.int32]) -> list[str]:
        """Return the text of each token."""
        new = sorted(set(token_ids.tolist()) - self._texts.keys())
        self._texts.update(
            zip(new, texts_after(self._tokenizer, [[token] for token in new]), strict=True)
        )
        return [self._texts[token] for token in token_ids.tolist()]
