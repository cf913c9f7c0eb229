"""Which models of a run are on servers, and opening them there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradalign.config import ScoreConfig
from gradalign.contexts import models_read
from gradalign.engines.base import EngineSpec
from gradalign.engines.registry import parse_engine_args
from gradalign.errors import UsageError
from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings

if TYPE_CHECKING:
    from gradalign.engines.server.engine import ServerEngine

TEACHER_FLAG = "--teacher-base-url"

# An answer with many log-probabilities per position is megabytes long.
_SCORING_CONCURRENCY = 16


def teacher_servers(config: ScoreConfig) -> dict[str, list[str]]:
    """Return the servers of each teacher checkpoint that has some, from `--teacher-base-url`.

    Raises:
        UsageError: an entry that is not MODEL=URL, or a model that is no teacher's.
    """
    teachers = [spec.model for spec in models_read(config.teachers)]
    models = {config.student if model == "self" else model for model in teachers}
    servers: dict[str, list[str]] = {}
    for entry in config.teacher_base_urls:
        found = re.fullmatch(r"(.+?)=(https?://.+)", entry)
        if found is None:
            raise UsageError(
                f"{TEACHER_FLAG} is not of the form MODEL=http://HOST:PORT.",
                "MODEL is what stands before the plus sign in --teacher.",
            )
        model = config.student if found[1] == "self" else found[1]
        if model not in models:
            raise UsageError(
                f"{TEACHER_FLAG} names {found[1]}, which is no teacher's model.",
                f"Teachers' models: {', '.join(sorted(models))}.",
            )
        servers.setdefault(model, []).append(found[2])
    return servers


def open_served_teacher(
    model: str,
    urls: Sequence[str],
    options: Mapping[str, Any],
    *,
    max_model_len: int | None = None,
    tokens: EventSpace | None = None,
    all_must_answer: bool = False,
) -> ServerEngine:
    """Open a teacher on its servers, to be asked for log-probabilities.

    Args:
        model: the teacher's checkpoint.
        urls: its servers.
        options: revision and trust_remote_code, as for loading it.
        max_model_len: tokens of context needed at least.
        tokens: what both models have; its log-probabilities are cut to them.
        all_must_answer: a server that does not answer is an error.

    Raises:
        UsageError: a server that has not this model.
        EngineError: no server answers.
    """
    from gradalign.engines.server.engine import ServerEngine

    spec = EngineSpec(
        model,
        sampling=SamplingSettings(),
        max_model_len=max_model_len,
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
        engine_args={"concurrency": _SCORING_CONCURRENCY},
        base_urls=tuple(urls),
        tokens=tokens,
    )
    return ServerEngine(spec, all_must_answer=all_must_answer, flag=TEACHER_FLAG)


def check_servers(config: ScoreConfig, engine: str, max_model_len: int) -> None:
    """Ask every server of a run whether it has what it is to have, before any work.

    Args:
        config: the settings.
        engine: the engine in use.
        max_model_len: longest prompt and response of the student.

    Raises:
        UsageError: a wrong address, model, vocabulary, context, or key; or a teacher's server
            that does not give enough log-probabilities.
        EngineError: a server does not answer.
    """
    served = teacher_servers(config)
    if engine == "server":
        from gradalign.engines.server.engine import ServerEngine

        spec = EngineSpec(
            config.student,
            max_model_len=max_model_len,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            engine_args=parse_engine_args(config.engine_args),
            base_urls=tuple(config.base_urls),
        )
        with ServerEngine(spec, all_must_answer=True) as student:
            _check_frequencies(config, student.longest_server_len, "--base-url")
    for model, urls in served.items():
        revision = config.revision if model == config.student else config.teacher_revision
        options = {"revision": revision, "trust_remote_code": config.trust_remote_code}
        for url in urls:
            with open_served_teacher(model, [url], options, all_must_answer=True) as teacher:
                check_top(teacher, config.support_size, url)
                if model == config.student:
                    _check_frequencies(config, teacher.longest_server_len, TEACHER_FLAG)


def _check_frequencies(config: ScoreConfig, served_length: int | None, flag: str) -> None:
    """Refuse a server whose student has other frequencies than the student's own passes here."""
    from gradalign.models import load_config
    from gradalign.models.frequencies import served_otherwise, steady_length

    settings = load_config(
        config.student, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    steady = steady_length(settings)
    if steady is not None and served_otherwise(settings, served_length):
        raise UsageError(
            f"{flag}: the server has a context of {served_length} tokens and so uses the long "
            f"{steady[1]} frequencies of {config.student} throughout, where the student's passes "
            "here use the short ones.",
            f"Start it with --max-model-len {steady[0]}.",
        )


def check_top(
    teacher: ServerEngine, support_size: int, url: str, flag: str = "--support-size"
) -> None:
    """Refuse a server that does not give as many most probable tokens as are asked for.

    Args:
        teacher: its engine.
        support_size: how many.
        url: the server, for the message.
        flag: the setting that asks for them.
    """
    from gradalign.engines.server.messages import scoring_body
    from gradalign.errors import EngineError

    num_top = min(support_size, teacher.limits.vocab_size)
    try:
        list(teacher.ask([scoring_body([0, 0], teacher.server_len, num_top=num_top)]))
    except EngineError as error:
        raise UsageError(
            f"the teacher's server {url} does not give the {num_top} most probable tokens: "
            f"{error.message}",
            f"Start it with --max-logprobs {num_top}, or lower {flag}.",
        ) from error
