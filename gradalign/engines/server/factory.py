"""The engine `server` by its name; the engine itself is imported when it is opened."""

from __future__ import annotations

from gradalign.engines.base import Engine, EngineSpec
from gradalign.engines.registry import ENGINES


@ENGINES.register("server")
def build(spec: EngineSpec) -> Engine:
    """Open the engine.

    Raises:
        UsageError, ModelError, EngineError: see ServerEngine.
    """
    from gradalign.engines.server.engine import ServerEngine

    return ServerEngine(spec)
