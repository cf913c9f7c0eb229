"""A teacher as a sampler, where it is to answer or to go on by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gradalign.engines import open_engine, resolve_engine
from gradalign.engines.base import Engine
from gradalign.models import resolve_model
from gradalign.stages.base import Run
from gradalign.stages.servers import teacher_servers


@contextmanager
def teacher_engine(run: Run, model: str, max_model_len: int) -> Iterator[Engine]:
    """Open a teacher's checkpoint as a sampler that stops where the student does."""
    engine_name, urls = _engine_of(run, model)
    with open_engine(
        engine_name,
        resolve_model(model),
        sampling=run.sampling,
        max_model_len=max_model_len,
        engine_args=run.config.engine_args if engine_name == run.resolved.engine else None,
        base_urls=urls,
        tokens=run.common_tokens(model),
        or_transformers=run.config.engine == "auto",
        **run.model_options(model),
    ) as engine:
        yield engine


def _engine_of(run: Run, model: str) -> tuple[str, Sequence[str]]:
    """Return the engine that samples from a teacher, and its servers if it is on some."""
    served = teacher_servers(run.config).get(model, [])
    if served:
        return "server", served
    own = run.resolved.engine
    return (resolve_engine("auto") if own == "server" else own), ()
