"""How trainings move the weights: the settings by which one pair is trained, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from validity.lora import add_lora
from validity.training import TrainSettings

WAY = 0.00625
"""Length of a step of the first two pairs."""


@dataclass(frozen=True)
class AdamwSettings(TrainSettings):
    """Trainings by AdamW without decay of the weights, at a constant rate.

    Attributes:
        step_norm: not used; AdamW's steps are as long as its rate makes them.
        learning_rate: of AdamW.
        lora_rank: of LoRA; 0 trains all weights.
    """

    learning_rate: float = 1e-4
    lora_rank: int = 0

    def optimizer(self, model: torch.nn.Module, seed: int) -> torch.optim.Optimizer:
        """Return AdamW; see the base class."""
        if self.lora_rank:
            parameters = add_lora(model, self.lora_rank, seed)
        else:
            parameters = list(model.requires_grad_(True).parameters())
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.0)


TOYS: Mapping[str, TrainSettings] = MappingProxyType(
    {
        "length": TrainSettings(WAY),
        "quarter": TrainSettings(WAY / 4),
        "adamw": AdamwSettings(learning_rate=1e-4),  # on addition a random direction loses 0.05
    }
)
"""Of the tiny pairs."""

LORA: Mapping[str, TrainSettings] = MappingProxyType(
    {
        "lora": AdamwSettings(
            checkpoints=(12,),
            prompts=8,
            group=4,
            eval_prompts=400,
            eval_responses=2,
            learning_rate=3e-4,
            lora_rank=16,
        )
    }
)
"""Of real models: 32 responses a step."""
