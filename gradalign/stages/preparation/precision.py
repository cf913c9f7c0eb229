"""What student and teachers are read in: the precision of their log-probabilities."""

from __future__ import annotations

from gradalign.config import ScoreConfig
from gradalign.contexts import models_read
from gradalign.models.checkpoints.loading import load_config, resolve_device, resolve_dtype

_COARSE_FIRST = ("bfloat16", "float16", "float32")


def pass_dtype(config: ScoreConfig) -> str:
    """Return the coarsest dtype of the student's and the teachers' passes.

    It is --dtype; with `auto` float32 on a CPU, elsewhere what the checkpoints say. On Ray the
    workers' devices are not known here, and a server's dtype is not told: these count as having
    the checkpoint's.

    Raises:
        ModelError: a checkpoint's configuration cannot be read.
    """
    device = resolve_device(config.device) if config.executor == "local" else config.device
    dtype = resolve_dtype(config.dtype, device)
    if dtype != "auto":
        return dtype
    models = {config.student, *(spec.model for spec in models_read(config.teachers))} - {"self"}
    found = set()
    for model in models:
        settings = load_config(
            model,
            revision=config.revision if model == config.student else config.teacher_revision,
            trust_remote_code=config.trust_remote_code,
        )
        text = getattr(settings, "text_config", None) or settings
        kind = getattr(settings, "dtype", None) or getattr(text, "dtype", None)
        found.add(str(kind).removeprefix("torch."))
    return next((name for name in _COARSE_FIRST if name in found), "float32")
