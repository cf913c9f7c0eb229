"""Checkpoints: names to folders, loading with errors that say what to do, and freeing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradalign.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch


def resolve_model(name: str) -> str:
    """Turn `demo:NAME` into the bundled folder; leave hub ids and paths as they are.

    Raises:
        UnknownNameError: no bundled model of that name.
        ModelError: a path that does not exist.
    """
    if name.startswith("demo:"):
        from gradalign.demo import model_path

        return str(model_path(name.removeprefix("demo:")))
    path = Path(name).expanduser()
    looks_local = name.startswith(("/", ".", "~")) or name.count("/") > 1
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model folder {name} holds no config.json.", "Give the folder of a checkpoint."
            )
        return str(path)
    if looks_local:
        raise ModelError(f"model folder {name} does not exist.", "Check the path.")
    return name


def resolve_device(device: str) -> str:
    """Turn `auto` into cuda, mps or cpu, and refuse a device that is not there."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"--device {device}: torch sees no GPU here.",
            "Use --device cpu, or install a CUDA build of torch.",
        )
    try:
        index = torch.device(device).index
    except RuntimeError:
        raise UsageError(
            f"--device {device}: torch knows no such device.", "Use auto, cpu, cuda, cuda:1, mps."
        ) from None
    if device.startswith("cuda") and (index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: there are {torch.cuda.device_count()} GPUs here, from cuda:0 on."
        )
    if device.startswith("mps") and not torch.backends.mps.is_available():
        raise UsageError(f"--device {device}: torch sees no such device here.", "Use --device cpu.")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """Turn `auto` into float32 on CPU; elsewhere it stays the checkpoint's own."""
    return "float32" if dtype == "auto" and device == "cpu" else dtype


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a model's configuration, cheaply, to check it before its weights are read.

    Raises:
        ModelError: missing, gated, offline, or not a causal language model.
    """
    from transformers import AutoConfig

    with _explained(name):
        return AutoConfig.from_pretrained(
            resolve_model(name), revision=revision, trust_remote_code=trust_remote_code
        )


def context_length(config: Any) -> int | None:
    """Return the longest sequence that a model takes, None where its config does not say."""
    text_config = getattr(config, "text_config", None) or config
    length = getattr(text_config, "max_position_embeddings", None)
    return int(length) if length else None


def commit_hash(config: Any) -> str | None:
    """Return the hub commit that a configuration was loaded from, None for a folder."""
    value = getattr(config, "_commit_hash", None)
    return str(value) if value else None


@contextmanager
def loaded_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Iterator[torch.nn.Module]:
    """Hold a causal language model in memory for as long as the block lasts.

    Raises:
        ModelError: missing, gated, offline, out of memory, or not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = resolve_device(device)
    with _explained(name), _no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(
            resolve_model(name),
            revision=revision,
            dtype=resolve_dtype(dtype, where),
            trust_remote_code=trust_remote_code,
        )
        model.to(where)
    model.eval()
    model.requires_grad_(False)
    try:
        yield model
    finally:
        del model
        gc.collect()
        if where.startswith("cuda"):
            torch.cuda.empty_cache()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar of its own into ours."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


_LOAD_FAILURES = {
    "OSError",
    "ConnectionError",
    "HfHubHTTPError",
    "ValueError",
    "KeyError",
    "SafetensorError",
    "ImportError",
}


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the many ways in which a hub load fails into one ModelError each."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        text = str(error)
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        if "GatedRepoError" in kinds or "gated repo" in text:
            raise ModelError(
                f"model {name} is gated.",
                "Accept its licence on its hub page and log in with `hf auth login`.",
            ) from error
        if "OutOfMemoryError" in kinds or "out of memory" in text:
            raise ModelError(
                f"model {name} does not fit into memory: {first}",
                "Use --dtype bfloat16, a larger device, or a smaller model.",
            ) from error
        if "trust_remote_code" in text:
            raise ModelError(
                f"model {name} needs code that comes with its checkpoint.",
                "Read that code, then pass --trust-remote-code.",
            ) from error
        if kinds & _LOAD_FAILURES:
            raise ModelError(
                f"model {name} cannot be loaded: {first}",
                "Check the name and --revision, that the hub can be reached or the model is in "
                "the local cache, or give a folder.",
            ) from error
        raise
