"""LoRA as it is trained: low-rank matrices beside every linear layer, in float32.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, with PEFT's defaults: A
uniform within one over the root of its inputs, B zero, both in float32 beside a model of whatever
precision, every linear layer but the output layer. Its scale is 1, so that the first step is in
gradalign's `--weights-space lora:rank=R`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import linear


def add_lora(model: torch.nn.Module, rank: int, seed: int) -> list[torch.nn.Parameter]:
    """Freeze a model, put LoRA beside its linear layers and return what is to be trained.

    Args:
        model: a causal language model of transformers.
        rank: of B A.
        seed: of A.
    """
    model.requires_grad_(False)
    output = model.get_output_embeddings()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    added = []
    for layer in [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]:
        if layer is output:
            continue
        bound = 1.0 / math.sqrt(layer.in_features)
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        layer.register_parameter("lora_A", torch.nn.Parameter(down))
        layer.register_parameter(
            "lora_B", torch.nn.Parameter(torch.zeros(layer.out_features, rank))
        )
        layer.register_forward_hook(_add)
        added += [layer.lora_A, layer.lora_B]
    return added


def _add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    low = linear(inputs[0].to(layer.lora_A.dtype), layer.lora_A)
    return output + linear(low, layer.lora_B).to(output.dtype)
