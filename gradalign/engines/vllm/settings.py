"""The arguments that vLLM is opened with: by the device, the model, and the work foreseen.

Targeted rollouts are thousands of short continuations whose prompts share long prefixes. What suits
them on a GPU is worked out from plain numbers, so that it can be looked at without one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradalign.engines.base import Foreseen
from gradalign.models.checkpoints.loading import config_number, context_length, load_config
from gradalign.models.checkpoints.weight_files import has_consolidated

CPU_ROWS = 128
"""Sequences at once on CPU: more were not faster."""

CPU_BLOCK, GPU_BLOCK = 32, 16
"""Tokens that prefixes are shared by. vLLM's default on CPU, 128, shares far fewer; that on a GPU
stays."""

ROWS = (64, 128, 256, 512, 1024)
"""Sequences at once on a GPU; vLLM's own default is 1024 on the largest cards, else 256."""

SURE_ROWS = 256
"""Tried where it is unknown how many fit: vLLM lets those wait that do not."""

LARGE_CARD = 70 * 2**30
"""From this memory on vLLM takes twice as many tokens per step by default."""

TOKENS_PER_STEP = {False: 8192, True: 16384}
"""Prompt tokens read in a step at most, by whether the card is large."""

CARD_SHARE = 0.85
WORKSPACE_BYTES = 2 * 2**30
LOGITS_COPIES = 3
"""What of a card may be filled, less what passes need: a constant, and float32 logits of all rows
raw, processed and with noise."""

FULL_SPEED = (8, 0)
"""Compute capability from which on more rows than `SURE_ROWS` are tried."""

EAGER_STEPS = 500
"""Of fewer steps nothing is compiled or captured: that takes the better part of a minute."""

GRAPH_SIZES = (1, 2, 4, *range(8, 33, 8), *range(48, 129, 16), *range(160, 257, 32))
GRAPH_SIZES += (*range(320, 513, 64), *range(640, 1025, 128))
"""Batches that CUDA graphs are captured for; the next larger one serves those in between. vLLM
captures twice as many up to 512 rows by default, and none for more."""


@dataclass(frozen=True)
class Card:
    """A GPU, or several that share a model.

    Attributes:
        total_bytes: memory of all of them.
        one_bytes: memory of one of them.
        capability: compute capability.
        can_sleep: whether vLLM can leave its memory to others.
    """

    total_bytes: int
    one_bytes: int
    capability: tuple[int, int]
    can_sleep: bool


@dataclass(frozen=True)
class Sizes:
    """What a model needs.

    Attributes:
        weight_bytes: None if unknown.
        token_bytes: keys and values of a token, None if its configuration does not tell.
        vocab_size: rows of its output layer.
        longest: tokens of the longest prompt and response.
    """

    weight_bytes: int | None
    token_bytes: int | None
    vocab_size: int
    longest: int


def gpu_arguments(
    card: Card, sizes: Sizes, foreseen: Foreseen | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that suit a GPU, beside those that the user gives.

    As many sequences at once as there is memory for at full length, and as are foreseen. Nothing
    is compiled where that would take longer than it saves.

    Args:
        card: the GPU.
        sizes: the model's.
        foreseen: the work; None if nothing is known of it, which is taken as much work.
        given: the user's own arguments.
    """
    rows = gpu_rows(card, sizes)
    if foreseen is not None and foreseen.requests:
        rows = min(rows, _enough(foreseen.requests))
    rows = int(given.get("max_num_seqs", rows))
    arguments: dict[str, Any] = {
        "max_num_seqs": rows,
        "max_num_batched_tokens": max(rows, TOKENS_PER_STEP[card.one_bytes >= LARGE_CARD]),
        "enable_sleep_mode": card.can_sleep and foreseen is not None,
    }
    few = foreseen is not None and steps_of(foreseen, rows) < EAGER_STEPS
    if given.get("enforce_eager", few):
        arguments["enforce_eager"] = True
    elif not any(name.startswith(("cudagraph", "max_cudagraph")) for name in given):
        arguments["compilation_config"] = {"cudagraph_capture_sizes": graph_sizes(rows)}
    return arguments


def gpu_rows(card: Card, sizes: Sizes) -> int:
    """Return how many sequences a card should do at once."""
    if not sizes.token_bytes or sizes.weight_bytes is None or card.capability < FULL_SPEED:
        return SURE_ROWS
    free = CARD_SHARE * card.total_bytes - sizes.weight_bytes - WORKSPACE_BYTES
    row = sizes.longest * sizes.token_bytes + 4 * LOGITS_COPIES * sizes.vocab_size
    fitting = [rows for rows in ROWS if rows * row <= free]
    return max([SURE_ROWS, *fitting])


def _enough(requests: int) -> int:
    return next((rows for rows in ROWS if rows >= requests), ROWS[-1])


def steps_of(foreseen: Foreseen, rows: int) -> float:
    """Return how many tokens the work takes one after the other, so many rows at a time."""
    return foreseen.tokens / max(min(rows, foreseen.requests), 1)


def graph_sizes(rows: int) -> list[int]:
    """Return the batches to capture for so many rows, the largest included."""
    return sorted({*(size for size in GRAPH_SIZES if size < rows), rows})


def engine_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of vllm.LLM: what suits the machine, then the user's own.

    Args:
        settings: an `EngineSpec` as plain data.
    """
    from vllm.platforms import current_platform

    config = load_config(
        settings["model"],
        revision=settings["revision"],
        trust_remote_code=settings["trust_remote_code"],
    )
    arguments: dict[str, Any] = {
        "model": settings["model"],
        "revision": settings["revision"],
        "trust_remote_code": settings["trust_remote_code"],
        "dtype": settings["dtype"],
        "max_model_len": settings["max_model_len"],
        "seed": settings["seed"],
        "skip_tokenizer_init": True,
        "enable_prefix_caching": True,
        "worker_extension_cls": "gradalign.engines.vllm.extension.CutLogits",
        "disable_log_stats": True,
    }
    given: dict[str, Any] = dict(settings["engine_args"])
    if current_platform.is_cpu():
        arguments |= _on_cpu(settings, config)
    elif current_platform.is_cuda_alike():
        foreseen = settings.get("foreseen")
        work = None if foreseen is None else Foreseen(**foreseen)
        card = _card(int(given.get("tensor_parallel_size", 1)))
        arguments |= gpu_arguments(card, _sizes(settings, config, work), work, given)
    else:
        arguments["max_num_seqs"] = SURE_ROWS
    if has_consolidated(Path(settings["model"])):
        # vLLM prefers Mistral's own files; all other passes read those of transformers.
        arguments |= {"load_format": "safetensors", "config_format": "hf"}
    return arguments | given


def _on_cpu(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    dtype = "float32" if settings["dtype"] == "auto" else settings["dtype"]
    longest = settings["max_model_len"] or context_length(config) or 4096
    rows = int(settings["engine_args"].get("max_num_seqs", CPU_ROWS))
    token_bytes = _token_bytes(config, dtype)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "max_num_seqs": CPU_ROWS,
        "dtype": dtype,
        "enforce_eager": True,  # compiling brought nothing on CPU
        "block_size": CPU_BLOCK,
        # A prompt split over two steps makes vLLM rewind the request's generator, which a CPU
        # generator cannot do; unsplit, a step must have room for the longest prompt.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, longest),
        # Without this vLLM takes nearly all of the machine's memory.
        "kv_cache_memory_bytes": cpu_cache_bytes(rows, longest, token_bytes, free),
    }


def cpu_cache_bytes(rows: int, longest: int, token_bytes: int, free: int) -> int:
    """Return memory for the running rows at full length and as much again for cached prefixes."""
    wanted = 2 * rows * longest * token_bytes
    return int(max(min(wanted, free * 0.4), 2 * longest * token_bytes, 64 * 2**20))


def _token_bytes(config: Any, dtype: str) -> int:
    import torch

    item = torch.empty(0, dtype=getattr(torch, dtype, torch.float32)).element_size()
    layers = config_number(config, "num_hidden_layers") or 1
    heads = config_number(config, "num_attention_heads") or 1
    kv_heads = config_number(config, "num_key_value_heads") or heads
    size = config_number(config, "head_dim")
    size = size or (config_number(config, "hidden_size") or 0) // heads
    return 2 * layers * kv_heads * size * item


def _sizes(settings: Mapping[str, Any], config: Any, foreseen: Foreseen | None) -> Sizes:
    dtype = settings["dtype"]
    if dtype == "auto":
        dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    weights = None if foreseen is None else foreseen.weight_bytes
    if weights is None:
        weights = _file_bytes(settings["model"])
    return Sizes(
        weight_bytes=weights,
        token_bytes=_token_bytes(config, dtype) or None,
        vocab_size=config_number(config, "vocab_size") or 0,
        longest=settings["max_model_len"] or context_length(config) or 4096,
    )


def _file_bytes(model: str) -> int | None:
    """Return the bytes of a folder's weight files, None of a model from the hub."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None


def _card(ranks: int) -> Card:
    import torch

    one = torch.cuda.get_device_properties(0)
    return Card(
        total_bytes=ranks * one.total_memory,
        one_bytes=one.total_memory,
        capability=(one.major, one.minor),
        can_sleep=_can_sleep(),
    )


def _can_sleep() -> bool:
    """Whether vLLM can leave the GPU's memory to others while it has nothing to do."""
    from vllm.platforms import current_platform

    if not current_platform.is_sleep_mode_available():
        return False
    if current_platform.is_cuda():
        from vllm.device_allocator.cumem import cumem_available

        if not cumem_available:
            return False
    allocator = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", os.environ.get("PYTORCH_ALLOC_CONF", ""))
    return "expandable_segments:true" not in allocator.lower()  # the two exclude each other
