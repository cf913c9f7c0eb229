"""Everything that can be known to go wrong before a model runs, found out without writing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from gradalign import methods
from gradalign.config import ScoreConfig, chosen_diagnostics
from gradalign.contexts import (
    CONTROL,
    Context,
    TeacherSpec,
    controls_beside,
    models_read,
    parse_any,
    parse_teacher,
)
from gradalign.contexts import get as get_context
from gradalign.engines import resolve_engine
from gradalign.errors import ContextOverflowError, GradalignError, TaskError, UsageError
from gradalign.models import (
    commit_hash,
    context_length,
    load_config,
    resolve_device,
    resolve_model,
    vocab_size,
)
from gradalign.models.checkpoints.generation import end_token_ids
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.checkpoints.weight_check import check_weights
from gradalign.models.event_space import event_space
from gradalign.models.frequencies import length_note
from gradalign.models.optimizer_state import FIRST, read_moments
from gradalign.models.prompts.render import special_token_ids, stop_token_ids
from gradalign.models.training_step import parse_step
from gradalign.models.weight_space import parameter_shapes, parse_space
from gradalign.questions import Attempt, Question
from gradalign.stages.base import Resolved, Run, read_template
from gradalign.stages.ends import end_warning
from gradalign.stages.preparation.difference_checks import (
    check_made,
    check_parts,
    delta_warnings,
)
from gradalign.stages.preparation.matching_checks import (
    check_matching,
    common_tokens,
    matching_lines,
    matchings,
)
from gradalign.stages.preparation.precision import pass_dtype
from gradalign.stages.preparation.prompt_checks import PromptNotes, sketch
from gradalign.stages.preparation.reader import Reader
from gradalign.stages.preparation.rendered import RenderedPrompts
from gradalign.stages.servers import check_servers, teacher_servers
from gradalign.stages.weights.gradients import derivative_way
from gradalign.tasks import Task, load_task
from gradalign.tokenization.matching import kind_of
from gradalign.verifiers import get_checked as get_verifier

DEFAULT_MAX_TOKENS = 2048


LEAST_REHEARSED = 4
"""Questions of a rehearsal at least: two move the student, and two say what it gains."""


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
        weights: by model, the files that its weights are read from, as far as they are known.
        notes: what to mind about chat templates, a sentence each.
    """

    config: ScoreConfig
    resolved: Resolved
    task: Task
    questions: Sequence[Question]
    prompts: RenderedPrompts
    student: Reader
    teachers: list[CheckedTeacher]
    weights: dict[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)

    def task_record(self) -> dict[str, object]:
        """Return what run.json keeps of the task.

        That is name, fingerprint, questions in all if known, and its evaluation split in words.
        """
        return {
            "name": self.config.task,
            "fingerprint": self.task.fingerprint,
            "size": getattr(self.task, "size", None),
            "evaluation": getattr(self.task, "evaluation", None),
        }


@dataclass(frozen=True)
class CheckedTeacher:
    """A teacher with what it reads; see `Checked`."""

    spec: TeacherSpec
    reader: Reader
    context: Context
    prompts: RenderedPrompts


def check(
    config: ScoreConfig, clock: str = "", *, controls: Sequence[str] | None = None
) -> Checked:
    """Resolve every name, read the questions, render every prompt, and measure it.

    Args:
        config: all settings.
        clock: the moment that chat templates are told, in ISO format; empty for now.
        controls: those that the run that is there has; None for a new run.

    Raises:
        GradalignError: any of the things that can be known to go wrong before models run.
    """
    _check_methods(config)
    parse_space(config.weights_space)
    _check_passes(config)
    engine = resolve_engine(config.engine, config.base_urls)
    if config.executor == "local":  # Ray's workers have devices of their own
        resolve_device(config.device)
    task = load_task(config.task, verifier=config.verifier)
    verifier = config.verifier or task.verifier
    get_verifier(verifier)
    specs = models_read(config.teachers)
    if len({parse_any(spec).label for spec in config.teachers}) != len(config.teachers):
        raise UsageError(f"--teacher: two of {', '.join(config.teachers)} are the same teacher.")
    check_parts(config, [spec.label for spec in specs])
    clock, notes = clock or datetime.now().isoformat(timespec="seconds"), PromptNotes()
    student = _reader(config, config.student, "student", clock, notes, teacher=False)
    readers = []
    for spec in specs:
        model = config.student if spec.model == "self" else spec.model
        label = f"teacher {spec.label}"
        readers.append(_reader(config, model, label, clock, notes, teacher=True))
        check_matching(config, student, readers[-1], spec.label)
    weights = _weights(config, engine, [config.student, *(reader.model for reader in readers)])
    questions = task.questions(config.limit, config.sample_ids, config.seed)
    if not questions:
        raise TaskError(f"task {config.task} gave no question.", "Check --limit and --sample-id.")
    if config.rehearse and len(questions) < LEAST_REHEARSED:
        raise UsageError(
            f"--rehearse: {len(questions)} questions are too few; each half has to say what its "
            "questions share.",
            f"Take {LEAST_REHEARSED} at least (--limit); 40 or more tell teachers apart.",
        )
    prompts = RenderedPrompts(
        questions, lambda item: student.render(item, item.prompt, config.response_prefix)
    )
    teachers = []
    for spec, reader in zip(specs, readers, strict=True):
        context = get_context(spec.context, questions)
        shown = _teacher_prompts(config, reader, context, questions)
        teachers.append(CheckedTeacher(spec, reader, context, shown))
    why_none: list[str] = []
    if controls is None:
        made, why_none = _controls(config, clock, notes, questions, prompts, student, teachers)
    else:
        made = [_made_control(config, spec, clock, notes, questions) for spec in controls]
    teachers += made
    check_made(
        config,
        {item.spec.label: common_tokens(config, student, item.reader) for item in teachers},
        why_none,
    )
    resolved = _resolve(config, engine, verifier, questions, prompts, student, teachers)
    resolved = replace(
        resolved,
        controls=[item.spec.label for item in made],
        warnings=(
            *_all_there_are(config, questions),
            *_evaluation(task),
            *why_none,
            *delta_warnings(config, student.tokens.size),
            *matching_lines(Run(config, resolved)),
            *resolved.warnings,
        ),
    )
    for line in notes.lines:
        warnings.warn(line, stacklevel=2)
    check_servers(config, engine, resolved.max_model_len)
    return Checked(
        config=config,
        resolved=resolved,
        task=task,
        questions=questions,
        prompts=prompts,
        student=student,
        teachers=teachers,
        weights=weights,
        notes=notes.lines,
    )


def _check_methods(config: ScoreConfig) -> None:
    """Refuse unknown methods, two ways of writing the same one, and sums of teachers it lacks."""
    spec_of = {asked: methods.get(asked).spec for asked in config.methods}
    twice = [asked for asked, spec in spec_of.items() if list(spec_of.values()).count(spec) > 1]
    if twice:
        raise UsageError(f"--method: {' and '.join(twice)} are the same method.", "Give it once.")
    beside = controls_beside(config.teachers, control=config.control, controls=config.controls)
    known = {parse_any(spec).label for spec in (*config.teachers, *beside)}
    for spec in spec_of.values():
        method = methods.get(spec)
        named = method.teachers if isinstance(method, methods.Mixture | methods.BestMixture) else ()
        missing = [label for label in named if label not in known]
        if missing:
            raise UsageError(
                f"--method {spec}: the run has no teacher {missing[0]!r}.",
                f"Known: {', '.join(sorted(known))}.",
            )


def _controls(
    config: ScoreConfig,
    clock: str,
    notes: PromptNotes,
    questions: Sequence[Question],
    prompts: RenderedPrompts,
    student: Reader,
    teachers: Sequence[CheckedTeacher],
) -> tuple[list[CheckedTeacher], list[str]]:
    """Make the controls of a new run; one that cannot be made is left out.

    Returns:
        The controls that are wanted and possible; and why others are not possible, as warnings.
    """
    rooms = _all_rooms(config, questions, prompts, student, teachers)
    usual = min([DEFAULT_MAX_TOKENS, *(room for room, _ in rooms)])
    made, why_none = [], []
    for spec in controls_beside(config.teachers, control=config.control, controls=config.controls):
        try:
            control = _made_control(config, spec, clock, notes, questions)
            room = min(_teacher_rooms(config, control, questions), default=None)
        except GradalignError as error:
            why_none.append(f"the control {spec} is left out: {error.message.rstrip('.')}")
            continue
        # A default length may shrink a little for a control, and a length asked for may not.
        if room is not None and room < (config.max_tokens or (usual + 1) // 2):
            why = f"its longest prompt leaves room for {room} tokens of response"
            why_none.append(f"the control {spec} is left out: {why}")
            continue
        made.append(control)
    return made, why_none


def _made_control(
    config: ScoreConfig,
    teacher: str,
    clock: str,
    notes: PromptNotes,
    questions: Sequence[Question],
) -> CheckedTeacher:
    """Show every question to a control.

    Raises:
        GradalignError: that is not possible for a question, or for none.
    """
    spec = parse_teacher(teacher)
    label = f"teacher {spec.label}"
    model = config.student if spec.model == "self" else spec.model
    reader = _reader(config, model, label, clock, notes, teacher=True)
    context = get_context(spec.context, questions)
    shown = _teacher_prompts(config, reader, context, questions)
    if all(context.prompt(question, None, ()) is None for question in questions):
        why = "no question has an answer that can be made false."
        raise TaskError(why if teacher == CONTROL else "it has nothing to show on any question.")
    return CheckedTeacher(spec, reader, context, shown)


def _all_there_are(config: ScoreConfig, questions: Sequence[Question]) -> list[str]:
    """Say that a task has fewer questions than were asked for, if it has."""
    if config.limit is None or config.sample_ids or config.limit <= len(questions):
        return []
    return [f"the task has {len(questions):,} questions: --limit {config.limit:,} takes all"]


def _evaluation(task: Task) -> list[str]:
    """Say that questions are from an evaluation split, if they are."""
    split = getattr(task, "evaluation", None)
    if split is None:
        return []
    return [
        f"questions are from {split}: what is chosen or trained by them cannot be measured there"
    ]


def _resolve(
    config: ScoreConfig,
    engine: str,
    verifier: str,
    questions: Sequence[Question],
    prompts: RenderedPrompts,
    student: Reader,
    teachers: Sequence[CheckedTeacher],
) -> Resolved:
    rooms = _all_rooms(config, questions, prompts, student, teachers)
    room, narrowest = min(rooms, key=lambda item: item[0], default=(DEFAULT_MAX_TOKENS, student))
    max_tokens = config.max_tokens or min(room, DEFAULT_MAX_TOKENS)
    if rooms and max_tokens > room:
        raise ContextOverflowError(
            f"--max-tokens {max_tokens} does not fit: the longest prompt leaves room for {room} "
            f"in the context of the {narrowest.label}, {narrowest.limit}{narrowest.limit_note}.",
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
        clock=student.clock,
        commits={
            reader.model: reader.commit
            for reader in (student, *(teacher.reader for teacher in teachers))
            if reader.commit is not None
        },
        pass_dtype=pass_dtype(config),
        token_ranges=student.tokens.ranges,
        common_token_ranges={
            teacher.reader.model: common_tokens(config, student, teacher.reader).ranges
            for teacher in teachers
        },
        matching=matchings(student, [teacher.reader for teacher in teachers]),
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
    if reader.model == student.model or kind_of(student.tokenizer, reader.tokenizer) != "same":
        return []  # with another tokenizer, its ends are the student's
    # What it was trained to end with; the tokenizer's own may be a base model's.
    own = reader.generation_stops or stop_token_ids(
        reader.tokenizer, chat_template=reader.template, template_kwargs=reader.template_kwargs
    )
    texts = {token: str(reader.tokenizer.decode([token])) for token in own}
    texts |= {token: str(student.tokenizer.decode([token])) for token in stops}
    return end_warning(teacher.spec.label, sorted(own), stops, texts)


def _reader(
    config: ScoreConfig, model: str, label: str, clock: str, notes: PromptNotes, *, teacher: bool
) -> Reader:
    revision = config.revision if model == config.student else config.teacher_revision
    settings = load_config(model, revision=revision, trust_remote_code=config.trust_remote_code)
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
        limit_note=length_note(settings),
        vocab_size=vocab_size(model, settings),
        commit=commit_hash(settings),
        generation_stops=end_token_ids(
            model, resolve_model(model), settings, commit=commit_hash(settings)
        ),
        clock=clock,
        notes=notes,
        tokens=event_space(tokenizer, vocab_size(model, settings)),
    )


def _check_passes(config: ScoreConfig) -> None:
    """Check how derivatives are taken, a rehearsal's step, and the file of an optimizer.

    Raises:
        UsageError: no such step; the student is too large for differences; or the file is not
            there, cannot be read, or is of another model.
    """
    if config.weights_derivative == "differences" and "weights" in config.alignment:
        derivative_way(config)
    if config.rehearse:
        parse_step(config.rehearse_step)
    if config.weights_adamw in (None, FIRST):
        return
    settings = load_config(
        config.student, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    shapes = parameter_shapes(settings, trust_remote_code=config.trust_remote_code)
    if shapes is not None:
        read_moments(str(config.weights_adamw), shapes)


def _weights(config: ScoreConfig, engine: str, models: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Check the weights of every model that is read here, from their headers.

    Teachers on servers are not: a folder with their tokenizer may stand for them.
    """
    served = teacher_servers(config)
    teachers_sample = "prefix" in chosen_diagnostics(config.diagnose)
    teachers_sample |= config.teacher_accuracy > 0
    found = {}
    for model in dict.fromkeys(models):
        if model in served and model != config.student:
            continue
        settings = load_config(
            model,
            revision=config.revision if model == config.student else config.teacher_revision,
            trust_remote_code=config.trust_remote_code,
        )
        found[model] = check_weights(
            model,
            resolve_model(model),
            settings,
            commit=commit_hash(settings),
            trust_remote_code=config.trust_remote_code,
            vllm=engine == "vllm" and (teachers_sample or model == config.student),
            # Workers of a cluster may have what this machine lacks.
            complete=config.executor == "local",
        )
    return found


def _teacher_prompts(
    config: ScoreConfig, reader: Reader, context: Context, questions: Sequence[Question]
) -> RenderedPrompts:
    """Render what a teacher sees; for contexts that need attempts, the bare question."""

    def rendered(question: Question) -> list[int]:
        context.check(question)
        if context.needs_attempts:
            likeness = sketch(context, question)
            if likeness is not None:
                reader.render(question, likeness, config.response_prefix)
            prompt = None
        else:
            prompt = context.prompt(question, None, ())
        shown = question.prompt if prompt is None else prompt
        return reader.render(question, shown, config.response_prefix)

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
                f"{reader.label}, whose context is {reader.limit}{reader.limit_note}.",
                "Shorten the question, leave it out with --sample-id, or use a model with a longer "
                "context.",
            )
        yield reader.limit - length


def _all_rooms(
    config: ScoreConfig,
    questions: Sequence[Question],
    prompts: RenderedPrompts,
    student: Reader,
    teachers: Sequence[CheckedTeacher],
) -> list[tuple[int, Reader]]:
    """Return the rooms of all prompts, each with its reader."""
    rooms = [(room, student) for room in _rooms(student, questions, prompts)]
    for teacher in teachers:
        rooms += [(room, teacher.reader) for room in _teacher_rooms(config, teacher, questions)]
    return rooms


def _teacher_rooms(
    config: ScoreConfig, teacher: CheckedTeacher, questions: Sequence[Question]
) -> Iterable[int]:
    """Yield the rooms of a teacher; one that is shown an attempt may read as much again.

    That is foreseen only where a length counts that is shorter than the model's own context.
    """
    reader, context = teacher.reader, teacher.context
    if not (context.needs_attempts and reader.limit_note):
        yield from _rooms(reader, questions, teacher.prompts)
        return

    def shown(question: Question) -> list[int]:
        prompt = context.prompt(question, None, [Attempt("", "", 1.0)])
        shown = question.prompt if prompt is None else prompt
        return reader.render(question, shown, config.response_prefix)

    for room in _rooms(reader, questions, RenderedPrompts(questions, shown)):
        yield room // 2
