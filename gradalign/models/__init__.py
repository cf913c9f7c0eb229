"""Checkpoints, tokenizers, prompts, and teacher-forced distributions."""

from gradalign.models.checkpoints.loading import (
    commit_hash,
    config_number,
    context_length,
    load_config,
    load_model,
    loaded_model,
    resolve_device,
    resolve_dtype,
    resolve_model,
    vocab_size,
)

__all__ = [
    "commit_hash",
    "config_number",
    "context_length",
    "load_config",
    "load_model",
    "loaded_model",
    "resolve_device",
    "resolve_dtype",
    "resolve_model",
    "vocab_size",
]
