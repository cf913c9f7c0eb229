"""Everything that can be known to go wrong before a model runs, found out without writing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gradalign import methods
from gradalign.config import ScoreConfig
from gradalign.contexts import Context, TeacherSpec, parse_teacher
from gradalign.contexts import get as get_context
from gradalign.errors import ContextOverflowError, TaskError, UsageError
from gradalign.models import commit_hash, context_length, load_config, resolve_device, resolve_model
from gradalign.models.event_space import EventSpace, event_space
from gradalign.models.prompts import render, special_token_ids, stop_token_ids
from gradalign.models.tokenizers import check_agreement, load_tokenizer
from gradalign.rollouts import resolve_engine
from gradalign.stages.base import Resolved, read_template
from gradalign.stages.ends import end_warning
from gradalign.stages.rendered import RenderedPrompts
from gradalign.stages.servers import check_servers
from gradalign.tasks import load_task
from gradalign.tasks.base import Question, Task
from gradalign.verifiers import get as get_verifier

DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True)
class Reader:
    """A model as a reader of prompts.

    Attributes:
        label: the words for it in messages, such as "teacher demo:strong".
        model: its checkpoint.
        tokenizer: its tokenizer.
        template: the text of a chat template of the user's own, if any.
        template_kwargs: what its chat template is given.
        limit: its context length, None if unknown.
        vocab_size: size of its output layer.
        commit: the hub commit of its configuration, None for a folder.
        generation_stops: end tokens of its generation_config.json.
        tokens: what it can say.
    """

    label: str
    model: str
    tokenizer: Any
    template: str | None
    template_kwargs: dict[str, Any]
    limit: int | None
    vocab_size: int
    commit: str | None
    generation_stops: tuple[int, ...]
    tokens: EventSpace

    def render(self, prompt: Any, response_prefix: str) -> list[int]:
        """Turn a prompt into token ids."""
        return render(
            self.tokenizer,
            prompt,
            chat_template=self.template,
            template_kwargs=self.template_kwargs,
            response_prefix=response_prefix,
        )


@dataclass(frozen=True)
class Checked:
    """A configuration that was held against the world.

    Attributes:
        config: the settings.
        resolved: what they come to.
        task: the source of the questions.
        questions: in the order of the run.
        prompts: the student's prompt of each, as token ids.
        student: the student as a reader.
        teachers: each teacher with its reader and context, and with the prompt of every question
            (of the bare question where the context depends on the student's attempts).
    """

    config: ScoreConfig
    resolved: Resolved
    task: Task
    questions: Sequence[Question]
    prompts: RenderedPrompts
    student: Reader
    teachers: list[CheckedTeacher]


@dataclass(frozen=True)
class CheckedTeacher:
    """A teacher with what it reads; see `Checked`."""

    spec: TeacherSpec
    reader: Reader
    context: Context
    prompts: RenderedPrompts


def check(config: ScoreConfig) -> Checked:
    """Resolve every name, read the questions, render every prompt, and measure it.

    Raises:
        GradalignError: any of the things that can be known to go wrong before models run.
    """
    for method in config.methods:
        methods.get(method)
    engine = resolve_engine(config.engine, config.base_urls)
    if config.executor == "local":  # Ray's workers have devices of their own
        resolve_device(config.device)
    task = load_task(config.task, verifier=config.verifier)
    verifier = config.verifier or task.verifier
    get_verifier(verifier)
    specs = [parse_teacher(spec) for spec in config.teachers]
    if len({spec.label for spec in specs}) != len(specs):
        raise UsageError(f"--teacher: two of {', '.join(config.teachers)} are the same teacher.")
    student = _reader(config, config.student, "student", teacher=False)
    readers = []
    for spec in specs:
        model = config.student if spec.model == "self" else spec.model
        readers.append(_reader(config, model, f"teacher {spec.label}", teacher=True))
        check_agreement(student.tokenizer, readers[-1].tokenizer, spec.label)
    questions = task.questions(config.limit, config.sample_ids, config.seed)
    if not questions:
        raise TaskError(f"task {config.task} gave no question.", "Check --limit and --sample-id.")
    prompts = RenderedPrompts(
        questions, lambda item: student.render(item.prompt, config.response_prefix)
    )
    teachers = []
    for spec, reader in zip(specs, readers, strict=True):
        context = get_context(spec.context, questions)
        shown = _teacher_prompts(config, reader, context, questions)
        teachers.append(CheckedTeacher(spec, reader, context, shown))
    resolved = _resolve(config, engine, verifier, questions, prompts, student, teachers)
    check_servers(config, engine, resolved.max_model_len)
    return Checked(
        config=config,
        resolved=resolved,
        task=task,
        questions=questions,
        prompts=prompts,
        student=student,
        teachers=teachers,
    )


def _resolve(
    config: ScoreConfig,
    engine: str,
    verifier: str,
    questions: Sequence[Question],
    prompts: RenderedPrompts,
    student: Reader,
    teachers: Sequence[CheckedTeacher],
) -> Resolved:
    rooms = [*_rooms(student, questions, prompts)]
    for teacher in teachers:
        rooms += _rooms(teacher.reader, questions, teacher.prompts)
    room = min(rooms, default=DEFAULT_MAX_TOKENS)
    max_tokens = config.max_tokens or min(room, DEFAULT_MAX_TOKENS)
    if rooms and max_tokens > room:
        raise ContextOverflowError(
            f"--max-tokens {max_tokens} does not fit: the longest prompt leaves room for {room}.",
            f"Use --max-tokens {room}, or leave long questions out with --sample-id.",
        )
    stops = _stops(config, student)
    return Resolved(
        max_tokens=max_tokens,
        max_model_len=max(prompts.lengths) + max_tokens,
        engine=engine,
        verifier=verifier,
        stop_token_ids=stops,
        vocab_size=student.vocab_size,
        special_token_ids=tuple(sorted(special_token_ids(student.tokenizer, student.template))),
        token_ranges=student.tokens.ranges,
        common_token_ranges={
            teacher.reader.model: student.tokens.common(teacher.reader.tokens).ranges
            for teacher in teachers
        },
        warnings=tuple(
            line for teacher in teachers for line in _other_ends(student, teacher, stops)
        ),
    )


def _stops(config: ScoreConfig, student: Reader) -> tuple[int, ...]:
    """Return the tokens that end a response, of those that the student can draw.

    Raises:
        UsageError: there is none, or one that the user named cannot be drawn.
    """
    for token in config.stop_token_ids:
        if token not in student.tokens:
            raise UsageError(
                f"stop token id {token} cannot be drawn: {config.student} has no token or no row "
                "of its output layer for it.",
                "Check --stop-token-id.",
            )
    named = stop_token_ids(
        student.tokenizer,
        student.generation_stops,
        config.stop_token_ids,
        chat_template=student.template,
        template_kwargs=student.template_kwargs,
    )
    stops = tuple(token for token in named if token in student.tokens)
    if not named:
        raise UsageError(
            f"nothing says which token ends a response of {config.student}: not its tokenizer, "
            "generation_config.json, or chat template.",
            "Name it with --stop-token-id.",
        )
    if not stops:
        raise UsageError(
            f"{config.student} cannot end a response: it has no token, or no row of its output "
            f"layer, for its end token id{'s' if len(named) > 1 else ''} "
            f"{', '.join(map(str, named[:3]))}.",
            "Name one that it can draw with --stop-token-id.",
        )
    return stops


def _other_ends(student: Reader, teacher: CheckedTeacher, stops: Sequence[int]) -> list[str]:
    """Say that a teacher ends responses with other tokens than the student, if it does."""
    reader = teacher.reader
    if reader.model == student.model:
        return []
    # What it was trained to end with; the tokenizer's own may be a base model's.
    own = reader.generation_stops or stop_token_ids(
        reader.tokenizer, chat_template=reader.template, template_kwargs=reader.template_kwargs
    )
    texts = {token: str(reader.tokenizer.decode([token])) for token in own}
    texts |= {token: str(student.tokenizer.decode([token])) for token in stops}
    return end_warning(teacher.spec.label, sorted(own), stops, texts)


def _reader(config: ScoreConfig, model: str, label: str, *, teacher: bool) -> Reader:
    revision = config.revision if model == config.student else config.teacher_revision
    settings = load_config(model, revision=revision, trust_remote_code=config.trust_remote_code)
    text_config = getattr(settings, "text_config", None) or settings
    tokenizer = load_tokenizer(resolve_model(model), revision, config.trust_remote_code)
    return Reader(
        label=label,
        model=model,
        tokenizer=tokenizer,
        template=read_template(config, teacher=teacher),
        template_kwargs=(
            config.teacher_chat_template_kwargs if teacher else config.chat_template_kwargs
        ),
        limit=context_length(settings),
        vocab_size=int(text_config.vocab_size),
        commit=commit_hash(settings),
        generation_stops=_generation_stops(model, revision, settings),
        tokens=event_space(tokenizer, int(text_config.vocab_size)),
    )


def _generation_stops(model: str, revision: str | None, settings: Any) -> tuple[int, ...]:
    """Return the eos ids of generation_config.json, which may be more than the tokenizer's."""
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(resolve_model(model), revision=revision).eos_token_id
    except OSError:  # a checkpoint need not have that file
        eos = getattr(settings, "eos_token_id", None)
    return () if eos is None else tuple(eos) if isinstance(eos, list) else (int(eos),)


def _teacher_prompts(
    config: ScoreConfig, reader: Reader, context: Context, questions: Sequence[Question]
) -> RenderedPrompts:
    """Render what a teacher sees; for contexts that need attempts, the bare question."""

    def rendered(question: Question) -> list[int]:
        context.check(question)
        prompt = question.prompt if context.needs_attempts else context.prompt(question, None, ())
        return reader.render(question.prompt if prompt is None else prompt, config.response_prefix)

    return RenderedPrompts(questions, rendered)


def _rooms(
    reader: Reader, questions: Sequence[Question], prompts: RenderedPrompts
) -> Iterable[int]:
    """Yield how many response tokens each prompt leaves in the reader's context."""
    if reader.limit is None:
        return
    for question, length in zip(questions, prompts.lengths, strict=True):
        if length >= reader.limit:
            raise ContextOverflowError(
                f"question {question.id}: its prompt has {length} tokens for the "
                f"{reader.label}, whose context is {reader.limit}.",
                "Shorten or drop the question, or use a model with a longer context.",
            )
        yield reader.limit - length
