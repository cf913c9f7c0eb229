"""What a run's settings only name, identified by what it holds: models, files, code, prompts.

The settings of a run say `--student ./ck`, and not which weights are in that folder today. What
is behind the names is kept in run.json, and is compared whenever the run is taken up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from gradalign.config import ScoreConfig
from gradalign.contexts import CONTEXTS, controls_beside, models_read
from gradalign.contexts import get as get_context
from gradalign.errors import ModelError, RunError
from gradalign.methods.registry import REGISTRY as METHODS
from gradalign.models import resolve_model
from gradalign.models.checkpoints.fingerprint import Signature, model_fingerprint, model_signature
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.prompts.render import render
from gradalign.questions import Question
from gradalign.sources import plugin_fingerprint, source_fingerprint
from gradalign.stages.base import Run, read_template
from gradalign.stages.servers import teacher_servers
from gradalign.store.folder import RunFolder
from gradalign.store.manifest import RunLog
from gradalign.store.shard import StoredQuestions
from gradalign.tasks import TASKS, load_task
from gradalign.tasks.benchmarks import path_of
from gradalign.tasks.files import user_path
from gradalign.verifiers import VERIFIERS

RENDERED = 64
"""Prompts of so many questions are rendered again when a run is taken up."""

_seen: dict[tuple[str, str], tuple[dict[str, str], Signature]] = {}
"""Run folder and model to the fingerprint and signature of when it was last found unchanged."""


def fingerprints(config: ScoreConfig, verifier: str) -> dict[str, str]:
    """Identify the files and the code that the settings name.

    Args:
        config: the settings.
        verifier: the spec of the verifier in use, the task's own if none is set.

    Returns:
        What it is, in words for messages, to a hash of it.
    """
    found: dict[str, str | None] = {}
    beside = controls_beside(config.teachers, control=config.control, controls=config.controls)
    for spec in models_read([*config.teachers, *beside]):
        name = spec.context
        base = name.partition(":")[0]
        if base in CONTEXTS:
            found[f"context {name}"] = get_context(name, ()).fingerprint
            found[f"plugin of context {base}"] = plugin_fingerprint(CONTEXTS.group, base)
    for teacher in (False, True):
        template = read_template(config, teacher=teacher)
        if template is not None:
            role = "teachers'" if teacher else "student's"
            found[f"{role} chat template"] = hashlib.sha256(template.encode()).hexdigest()
    if _reads_files(config.task):
        found[f"task {config.task}"] = load_task(config.task, verifier=config.verifier).fingerprint
    elif not user_path(config.task).is_file():
        found[f"code of task {config.task}"] = _code(config.task, TASKS)
    found[verifier_code(verifier)] = _code(verifier, VERIFIERS)
    for method in config.methods:
        found[f"code of method {method}"] = _code(method, METHODS)
    found[f"plugin of engine {config.engine}"] = plugin_fingerprint(
        "gradalign.engines", config.engine
    )
    found.update(_served(config))
    return {name: value for name, value in found.items() if value is not None}


def verifier_code(verifier: str) -> str:
    """Return the name of the fingerprint of a verifier's code."""
    return f"code of verifier {verifier}"


def model_names(config: ScoreConfig) -> list[str]:
    """Return the run's checkpoints, each once, the student's first."""
    models = [spec.model for spec in models_read(config.teachers)]
    return list(dict.fromkeys([config.student, *(m for m in models if m != "self")]))


def model_files(config: ScoreConfig, model: str) -> dict[str, str]:
    """Identify one of the run's checkpoints; see `model_fingerprint`."""
    revision = config.revision if model == config.student else config.teacher_revision
    return model_fingerprint(model, revision, trust_remote_code=config.trust_remote_code)


def prompt_fingerprints(config: ScoreConfig, resolved: Mapping[str, Any]) -> dict[str, str]:
    """Hash the token ids of prompts, as they are rendered now from the run's stored questions.

    Chat templates are told the run's own clock, not the time of day. A reader whose model is not
    there any more is left out: a stage that needs it will say so.
    """
    folder = RunFolder(config.output_dir)
    questions = list(islice(StoredQuestions(folder), RENDERED))
    found = {}
    clock = resolved["clock"]
    with suppress(ModelError):
        found[_STUDENTS_PROMPTS] = _rendered(config, config.student, questions, None, clock)
    for spec in models_read([*config.teachers, *resolved["controls"]]):
        model = config.student if spec.model == "self" else spec.model
        context = get_context(spec.context, StoredQuestions(folder))
        with suppress(ModelError):
            found[f"{_TEACHERS_PROMPTS}{spec.label}"] = _rendered(
                config, model, questions, context, clock
            )
    return found


_STUDENTS_PROMPTS = "student's prompts"
_TEACHERS_PROMPTS = "prompts of teacher "


def without_prompts(found: Mapping[str, str]) -> dict[str, str]:
    """Return fingerprints without those of prompts."""
    return {
        name: value
        for name, value in found.items()
        if name != _STUDENTS_PROMPTS and not name.startswith(_TEACHERS_PROMPTS)
    }


def record_identity(log: RunLog, config: ScoreConfig, verifier: str) -> None:
    """Put what the settings name into run.json; the questions have been written."""
    log.data["fingerprints"] = {
        **fingerprints(config, verifier),
        **prompt_fingerprints(config, log.resolved),
    }


def check_identity(config: ScoreConfig, log: RunLog, *, ignore: Collection[str] = ()) -> None:
    """Refuse to go on with a run of which something has changed behind its name.

    Args:
        config: the settings.
        log: the run's record.
        ignore: names of fingerprints that may have changed.

    Raises:
        RunError: a model, a file, code, or what becomes of the prompts is not what it was.
    """
    changed = changed_models(config, log.data["models"])
    before = log.data["fingerprints"]
    now = fingerprints(config, log.resolved["verifier"])
    now = {name: value for name, value in now.items() if name not in ignore}
    if not changed and log.prepared and not _differ(before, now):
        now |= prompt_fingerprints(config, log.resolved)
    changed += [f"the {name}" for name in _differ(before, now)]
    if changed:
        raise _changed(config.output_dir, changed)


def changed_models(config: ScoreConfig, recorded: Mapping[str, Any]) -> list[str]:
    """Return what has changed of the run's checkpoints, in words.

    One that is not there any more has not become another: a stage that needs it will say so.

    Args:
        config: the settings.
        recorded: `models` of run.json.
    """
    changed = []
    for model in model_names(config):
        before = recorded.get(model, {}).get("files")
        if before is None:
            continue
        with suppress(ModelError):
            now = model_files(config, model)
            files = sorted(name for name in before.keys() | now.keys() if _at(before, now, name))
            if files:
                some = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
                changed.append(f"the model {model} ({some})")
    return changed


def check_models(run: Run, recorded: Mapping[str, Any]) -> None:
    """Refuse to go on if a model was changed while the run is under way.

    It costs next to nothing where the files' sizes and times are those of the last look.

    Args:
        run: the run.
        recorded: `models` of its run.json.

    Raises:
        RunError: a model is not what it was when the run began.
    """
    where = run.folder.identity
    for model in model_names(run.config):
        files = recorded.get(model, {}).get("files")
        if files is None:
            continue
        with suppress(ModelError):
            signature = model_signature(model)
            if not signature:  # a hub id: every stage loads the commit that the run began with
                continue
            if _seen.get((where, model)) == (files, signature):
                continue
            changed = changed_models(run.config, {model: recorded[model]})
            if changed:
                raise _changed(run.config.output_dir, changed)
            _seen[where, model] = (files, signature)


def _reads_files(task: str) -> bool:
    """Whether a task's questions are in files of the user's own, which are there."""
    if user_path(task).is_file():
        return True
    path = path_of(task)
    return path is not None and user_path(path).exists()


def _served(config: ScoreConfig) -> dict[str, str]:
    """Identify what is behind each server's address; another address is another server."""
    servers = dict(teacher_servers(config))
    if config.base_urls:
        servers[config.student] = [*servers.get(config.student, ()), *config.base_urls]
    if not servers:
        return {}
    from gradalign.engines.server.identity import served_models

    found = {}
    for model, urls in servers.items():
        names = [model, *map(str, (config.engine_args.get("served_model_name"),))]
        with suppress(ModelError):
            names.append(resolve_model(model))
        # The student may be on the same server as a sampler and as a teacher.
        for url, what in served_models(list(dict.fromkeys(urls)), names).items():
            found[f"model {model} served at {url}"] = what
    return found


def _code(spec: str, registry: Any) -> str | None:
    """Hash the code behind `module:object` or a plugin's name; None for what comes with us."""
    name = spec.partition(":")[0]
    if name in registry:
        return plugin_fingerprint(registry.group, name)
    return source_fingerprint(name) if all(map(str.isidentifier, name.split("."))) else None


def _rendered(
    config: ScoreConfig,
    model: str,
    questions: Iterable[Question],
    context: Any | None,
    clock: str,
) -> str:
    is_student = model == config.student
    tokenizer = load_tokenizer(
        resolve_model(model),
        config.revision if is_student else config.teacher_revision,
        config.trust_remote_code,
    )
    template = read_template(config, teacher=context is not None)
    kwargs = config.teacher_chat_template_kwargs if context else config.chat_template_kwargs
    digest = hashlib.sha256()
    for prompt in _prompts(questions, context):
        ids = render(
            tokenizer,
            prompt,
            chat_template=template,
            template_kwargs=kwargs,
            response_prefix=config.response_prefix,
            clock=clock,
        )
        digest.update(np.asarray([len(ids), *ids], dtype="<i8").tobytes())
    return "sha256:" + digest.hexdigest()


def _prompts(questions: Iterable[Question], context: Any | None) -> Iterator[Any]:
    for question in questions:
        shown = (
            None
            if context is None or context.needs_attempts
            else context.prompt(question, None, ())
        )
        yield question.prompt if shown is None else shown


def _differ(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what has another hash than before; what is only in one of both was not compared."""
    return [name for name in now if name in before and before[name] != now[name]]


def _at(before: Mapping[str, str], now: Mapping[str, str], name: str) -> bool:
    return before.get(name) != now.get(name)


def _changed(output_dir: str, what: list[str]) -> RunError:
    verb = "was" if len(what) == 1 else "were"
    return RunError(
        f"{output_dir} holds a run from before {'; '.join(what)} {verb} changed.",
        "Choose another --output-dir, or start over with --no-resume.",
    )
