"""The engine `transformers` by its name; the engine itself is imported when it is opened."""

from __future__ import annotations

from gradalign.engines.base import Engine, EngineSpec
from gradalign.engines.registry import ENGINES, LocalEngine
from gradalign.errors import UsageError

_ARGUMENTS = ("cache_bytes", "max_rows")


def build(spec: EngineSpec) -> Engine:
    """Open the engine.

    Raises:
        UsageError: an engine argument that is not known, or no positive integer.
        ModelError: the model cannot be loaded.
    """
    unknown = sorted(set(spec.engine_args) - set(_ARGUMENTS))
    if unknown:
        raise UsageError(
            f"engine transformers has no argument {unknown[0]!r}.",
            f"Known: {', '.join(_ARGUMENTS)}.",
        )
    for key, value in spec.engine_args.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"engine argument {key} must be a positive integer, got {value!r}.")
    from gradalign.engines.transformers.engine import TransformersEngine

    return TransformersEngine(
        spec.model,
        sampling=spec.sampling,
        max_model_len=spec.max_model_len,
        dtype=spec.dtype,
        device=spec.device,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
        tokens=spec.tokens,
        **spec.engine_args,
    )


ENGINES.register("transformers")(LocalEngine(build))
