"""What the models need in memory against what is there, from their configurations alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.models import config_number, load_config, resolve_device
from gradalign.models.checkpoints.loading import resolve_dtype
from gradalign.models.distributions import LOGITS_BYTES
from gradalign.models.weight_space import parameter_shapes
from gradalign.runtime import available_bytes
from gradalign.stages.base import Resolved, Run
from gradalign.stages.weights.gradients import GRADIENT_VECTORS, gradient_dtype

LOGITS_COPIES = 3
"""Blocks of logits alive at once in a teacher-forced pass: raw, in float32, normalised."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class ModelMemory:
    """One checkpoint; None where its configuration does not tell.

    Attributes:
        name: as given.
        parameters: how many it has.
        weight_bytes: in the type that it is loaded in.
        kv_bytes_per_token: keys and values of one token, with attention in every layer.
    """

    name: str
    parameters: int | None
    weight_bytes: int | None
    kv_bytes_per_token: int | None


@dataclass(frozen=True)
class Memory:
    """Needs against what is there. One model is at work at a time.

    The student's engine may stay beside the others, where there is memory for it: see
    `gradalign.planning.engine`.

    Attributes:
        device: cuda, cpu or mps.
        device_name: for people.
        num_devices: GPUs that are visible; 0 without any.
        total_bytes: of one GPU, or of the machine.
        free_bytes: of it, now.
        host_free_bytes: of the machine, now.
        models: the student first.
        sequence_bytes: the student's keys and values for the longest prompt and response.
        needed_bytes: the largest model with one such sequence, or with its logits.
        fits: whether `needed_bytes` is there; None if unknown.
    """

    device: str
    device_name: str
    num_devices: int
    total_bytes: int
    free_bytes: int
    host_free_bytes: int
    models: tuple[ModelMemory, ...]
    sequence_bytes: int | None
    needed_bytes: int | None
    fits: bool | None


def plan_memory(config: ScoreConfig, resolved: Resolved) -> Memory:
    """Compare the models' sizes with the device that they will be loaded on."""
    # Of the cluster's machines nothing is known here.
    device = resolve_device("auto" if config.executor == "ray" else config.device)
    run = Run(config, resolved)
    names = dict.fromkeys(
        [config.student, *(run.model_of(teacher) for teacher in run.read_teachers)]
    )
    models = tuple(model_memory(run, name, device) for name in names)
    name, number, total, free = device_memory(device)
    student = models[0]
    # Tensor parallelism spreads the sampled student; other models are loaded on one device.
    ranks = int(config.engine_args.get("tensor_parallel_size", 1))
    sequence = (
        None
        if student.kv_bytes_per_token is None
        else student.kv_bytes_per_token * resolved.max_model_len // ranks
    )
    weights = [model.weight_bytes for model in models if model.weight_bytes is not None]
    needed = fits = None
    if len(weights) == len(models):
        logits = LOGITS_COPIES * min(LOGITS_BYTES, config.batch_tokens * resolved.vocab_size * 4)
        sampled = (student.weight_bytes or 0) // ranks + (sequence or 0)
        needed = max(sampled, max(weights) + logits, _gradient_bytes(config, student))
        fits = needed <= total
    return Memory(
        device=device.partition(":")[0],
        device_name=name,
        num_devices=number,
        total_bytes=total,
        free_bytes=free,
        host_free_bytes=available_bytes("cpu"),
        models=models,
        sequence_bytes=sequence,
        needed_bytes=needed,
        fits=fits,
    )


def _gradient_bytes(config: ScoreConfig, student: ModelMemory) -> int:
    """Return what gradients in the weights need with the weights.

    In all weights these are vectors as long as the weights; in other spaces little.
    """
    if "weights" not in config.alignment or student.parameters is None:
        return 0
    vectors = GRADIENT_VECTORS if config.weights_space == "all" else 0
    size = _BYTES[gradient_dtype(config)]
    return (size + 4 * vectors) * student.parameters


def model_memory(run: Run, name: str, device: str) -> ModelMemory:
    """Work out a checkpoint's size without reading its weights."""
    options = run.model_options(name)
    settings = load_config(
        name, revision=options["revision"], trust_remote_code=options["trust_remote_code"]
    )
    dtype = resolve_dtype(options["dtype"], device)
    if dtype == "auto":
        dtype = str(getattr(settings, "dtype", None) or "float32").removeprefix("torch.")
    size = _BYTES.get(dtype, 2)
    parameters = count_parameters(settings, trust_remote_code=options["trust_remote_code"])
    per_token = kv_numbers_per_token(settings)
    return ModelMemory(
        name=name,
        parameters=parameters,
        weight_bytes=None if parameters is None else parameters * size,
        kv_bytes_per_token=None if per_token is None else per_token * size,
    )


def count_parameters(settings: Any, *, trust_remote_code: bool) -> int | None:
    """Build a model without memory for its weights and count them; None if it cannot be built."""
    shapes = parameter_shapes(settings, trust_remote_code=trust_remote_code)
    return None if shapes is None else sum(map(math.prod, shapes.values()))


def kv_numbers_per_token(settings: Any) -> int | None:
    """Count the numbers of one token's keys and values, as plain attention keeps them.

    None where the configuration does not tell, as for models without attention (Mamba, RWKV), or
    tells it by layer.
    """
    layers = config_number(settings, "num_hidden_layers")
    heads = config_number(settings, "num_attention_heads")
    hidden, size = config_number(settings, "hidden_size"), config_number(settings, "head_dim")
    kept = config_number(settings, "num_key_value_heads") or heads
    if size is None and hidden and heads:
        size = hidden // heads
    return 2 * layers * kept * size if layers and kept and size else None


def device_memory(device: str) -> tuple[str, int, int, int]:
    """Return name, number of GPUs, and total and free bytes of a device."""
    import torch

    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return torch.cuda.get_device_name(device), torch.cuda.device_count(), total, free
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{device}, {os.cpu_count()} cores", 0, total, available_bytes("cpu")
