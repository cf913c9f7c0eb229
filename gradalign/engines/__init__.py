"""Rollout engines: one protocol, a registry of names, a folder each; nothing heavy at import."""

from __future__ import annotations

from gradalign.engines.base import (
    Completion,
    Engine,
    EngineSpec,
    EngineUsage,
    FinishReason,
    Foreseen,
)
from gradalign.engines.registry import (
    ENGINES,
    EngineFactory,
    LocalEngine,
    open_engine,
    resolve_engine,
    start_engine_ahead,
)
from gradalign.engines.requests import ModelLimits, Request
from gradalign.engines.seeds import derive_seed
from gradalign.engines.server import factory as _server  # noqa: F401  (they register)
from gradalign.engines.transformers import factory as _transformers  # noqa: F401
from gradalign.engines.vllm import factory as _vllm  # noqa: F401
from gradalign.models.sampling import SamplingSettings

__all__ = [
    "ENGINES",
    "Completion",
    "Engine",
    "EngineFactory",
    "EngineSpec",
    "EngineUsage",
    "FinishReason",
    "Foreseen",
    "LocalEngine",
    "ModelLimits",
    "Request",
    "SamplingSettings",
    "derive_seed",
    "open_engine",
    "resolve_engine",
    "start_engine_ahead",
]
