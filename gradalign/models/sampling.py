"""How tokens are drawn from a model. Axes: _B rows, _V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SamplingSettings:
    """How tokens are drawn; the same for every request of an engine.

    Attributes:
        temperature: softmax temperature, > 0.
        top_p: nucleus mass, 1 for none.
        top_k: number of most probable tokens kept, 0 for none.
        stop_token_ids: ids that end a response; the stop token is part of it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution, unchanged."""
        return self.temperature == 1.0 and self.top_p >= 1.0 and self.top_k <= 0


def probabilities(logits_BV: torch.Tensor, sampling: SamplingSettings) -> torch.Tensor:
    """Return the distribution that tokens are drawn from, float64 [B, V].

    Temperature, then top-k, then top-p, each as in the logits warpers of transformers, except
    that equal logits are ranked by token id, so that what is kept never depends on how a sort
    breaks ties.
    """
    import torch

    scores_BV = logits_BV.double() / sampling.temperature
    vocab = scores_BV.shape[1]
    top_k = sampling.top_k if 0 < sampling.top_k < vocab else 0
    if not top_k and sampling.top_p >= 1.0:
        return torch.softmax(scores_BV, dim=1)
    ranked_BV, order_BV = torch.sort(scores_BV, dim=1, descending=True, stable=True)
    if top_k:
        ranked_BV[:, top_k:] = -torch.inf
    p_BV = torch.softmax(ranked_BV, dim=1)
    if sampling.top_p < 1.0:
        # A token stays if the mass of all better ones is below top_p: the best always does.
        before_BV = torch.cumsum(p_BV, dim=1) - p_BV
        p_BV = torch.where(before_BV < sampling.top_p, p_BV, 0.0)
        p_BV /= p_BV.sum(dim=1, keepdim=True)
    return torch.zeros_like(p_BV).scatter_(1, order_BV, p_BV)
