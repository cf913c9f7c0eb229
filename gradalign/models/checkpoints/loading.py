"""Checkpoints: names to folders, loading with errors that say what to do, and freeing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradalign.errors import ModelError, UsageError
from gradalign.models.checkpoints.failures import explained
from gradalign.models.checkpoints.weight_check import (
    check_untied,
    check_weights,
    is_quantised,
    judge,
    quiet_loading,
)
from gradalign.models.checkpoints.weight_files import adapter_alone, adapter_files
from gradalign.models.frequencies import steady_length
from gradalign.runtime import model_let_go, num_bytes

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
            if adapter_files(path):
                raise adapter_alone(name)
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

    with explained(name):
        return AutoConfig.from_pretrained(
            resolve_model(name), revision=revision, trust_remote_code=trust_remote_code
        )


def config_number(config: Any, name: str) -> int | None:
    """Return a whole number of a model's language part, None where its config has none.

    Architectures differ in what they have: Mamba has no heads, others tell it by layer.
    """
    try:
        value = getattr(config.get_text_config(decoder=True), name, None)
    except Exception:  # a config whose layers differ refuses to name one number
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def context_length(config: Any) -> int | None:
    """Return the longest sequence that a model takes, None where its config does not say.

    Where rotary frequencies change with the longest sequence of a batch it is the length up to
    which they do not: see `gradalign.models.frequencies`.
    """
    length = config_number(config, "max_position_embeddings")
    steady = steady_length(config)
    lengths = [length] if length and length > 0 else []  # XLNet says -1
    return min([*lengths, *(steady or ())[:1]], default=None)


def vocab_size(name: str, config: Any) -> int:
    """Return the size of a model's output layer.

    Raises:
        ModelError: its config does not say.
    """
    size = config_number(config, "vocab_size")
    if not size or size < 0:
        raise ModelError(
            f"model {name}: its configuration has no vocab_size.",
            "Give a causal language model.",
        )
    return size


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
    """Hold a causal language model in memory for as long as the block lasts; see `load_model`."""
    where = resolve_device(device)
    model = load_model(
        name, revision=revision, dtype=dtype, device=where, trust_remote_code=trust_remote_code
    )
    size = num_bytes(model)
    try:
        yield model
    finally:
        del model
        model_let_go(size, where)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> torch.nn.Module:
    """Load a causal language model, frozen and in evaluation mode.

    Raises:
        ModelError: missing, gated, offline, out of memory, not a causal language model, or with
            weights that do not fit its configuration.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    where = resolve_device(device)
    path = resolve_model(name)
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)

    def check() -> tuple[str, ...]:
        return check_weights(
            name, path, config, commit=commit_hash(config), trust_remote_code=trust_remote_code
        )

    signature = folder_signature(path)
    checked = signature in _fitting or bool(check())
    with explained(name), quiet_loading():
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=resolve_dtype(dtype, where),
            trust_remote_code=trust_remote_code,
            # Sampling is ours: an invalid generation_config.json must not keep a model away.
            generation_config=GenerationConfig(),
            # Judged below, with the names of the tensors.
            ignore_mismatched_sizes=not is_quantised(config),
            output_loading_info=True,
        )
        if not is_quantised(config):
            judge(name, info)
            check_untied(name, model)
        if not checked:  # it was downloaded just now
            check()
        model.to(where)
    if signature:
        _fitting.add(signature)
    model.eval()
    model.requires_grad_(False)
    loaded: torch.nn.Module = model
    return loaded


_fitting: set[tuple[object, ...]] = set()
"""Folders whose weights fit, as they were then: every stage opens the same few models again."""


def folder_signature(path: str) -> tuple[object, ...]:
    """Return a folder's name, and names, sizes and times of its files; () of a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return ()
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    times = [(name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    return (str(folder.resolve()), *times)
