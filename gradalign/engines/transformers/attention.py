"""Decoding attention that does not copy the cache once per query head.

Grouped-query models share a key head among several query heads. For a single new token those
query heads can stand as the query positions of one attention call on the key head itself,
since all of them see the same columns; transformers instead repeats keys and values in memory
whenever a mask is present.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "gradalign_grouped_sdpa"

# Arguments of models whose attention is more than softmax(q k + mask) v.
_SPECIAL = ("position_bias", "cache", "s_aux", "softcap")


def grouped_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa function does, without copies for a single new token.

    Args:
        module: the attention layer.
        query: [batch, query heads, new tokens, head size].
        key: [batch, key heads, columns, head size].
        value: [batch, key heads, columns, head size].
        attention_mask: None or [batch or 1, 1, new tokens, columns].
        dropout: as in the layer; 0 in evaluation.
        scaling: factor of the scores, None for head size to the power -1/2.
        **kwargs: whatever else the layer passes on.

    Returns:
        The output, [batch, new tokens, query heads, head size], and no weights.
    """
    batch, query_heads, num_new, size = query.shape
    key_heads = key.shape[1]
    grouped = num_new == 1 and query_heads > key_heads and dropout == 0.0
    one_mask = attention_mask is None or attention_mask.shape[1] == 1
    if not grouped or not one_mask or any(kwargs.get(name) is not None for name in _SPECIAL):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, key_heads, query_heads // key_heads, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return out.reshape(batch, query_heads, 1, value.shape[-1]).transpose(1, 2), None


def install(model: Any) -> str | None:
    """Let a model that uses sdpa attention decode with `grouped_attention_forward`.

    Returns:
        The implementation to give back to `restore`; None if the model was left as it is.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return None
    AttentionInterface.register(NAME, grouped_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError):  # a model with an attention of its own
        return None
    return "sdpa"


def restore(model: Any, implementation: str | None) -> None:
    """Undo `install`."""
    if implementation is not None:
        model.set_attn_implementation(implementation)
