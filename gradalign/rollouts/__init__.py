"""Rollout engines: one protocol, a registry of names, and nothing heavy at import."""

from __future__ import annotations

from gradalign.rollouts.base import (
    Completion,
    Engine,
    EngineUsage,
    FinishReason,
    Request,
    SamplingSettings,
    derive_seed,
)
from gradalign.rollouts.registry import (
    ENGINES,
    EngineFactory,
    EngineSpec,
    open_engine,
    resolve_engine,
)

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
]
