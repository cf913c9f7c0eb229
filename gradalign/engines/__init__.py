"""Rollout engines: one protocol, a registry of names, and nothing heavy at import."""

from __future__ import annotations

from gradalign.engines.base import (
    Completion,
    Engine,
    EngineSpec,
    EngineUsage,
    FinishReason,
    Request,
    derive_seed,
)
from gradalign.engines.registry import (
    ENGINES,
    EngineFactory,
    open_engine,
    resolve_engine,
    start_engine_ahead,
)
from gradalign.models.sampling import SamplingSettings

__all__ = [
    "ENGINES",
    "Completion",
    "Engine",
    "EngineFactory",
    "EngineSpec",
    "EngineUsage",
    "FinishReason",
    "Request",
    "SamplingSettings",
    "derive_seed",
    "open_engine",
    "resolve_engine",
    "start_engine_ahead",
]
