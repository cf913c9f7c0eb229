"""One call of a causal language model with explicit mask, positions and cache."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


class ModelCall:
    """Calls a model in the way that its forward signature allows.

    Args:
        model: a transformers causal language model; put into evaluation mode.

    Attributes:
        device: where its input goes.
        config: its text configuration.
        vocab_size: number of logits that stand for a token.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.eval()
        self.device = next(model.parameters()).device
        full_config: Any = model.config
        self.config: Any = full_config.get_text_config(decoder=True)
        self.vocab_size = int(self.config.vocab_size)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._takes_keep = "logits_to_keep" in accepted
        # State-space models have another word for it.
        self._cache_name = "cache_params" if "cache_params" in accepted else "past_key_values"

    def __call__(
        self,
        token_BT: Ints,
        mask_BP: Ints,
        position_BT: Ints,
        cache: Any,
        *,
        keep: int = 1,
    ) -> torch.Tensor:
        """Run the model; the cache, if any, grows by the tokens.

        Args:
            token_BT: the new tokens, [B, T].
            mask_BP: 1 where a column (cached or new) holds a token, [B, C].
            position_BT: position of each new token in its own sequence, [B, T].
            cache: a transformers cache, or None for none.
            keep: logits of this many last columns are returned.

        Returns:
            Logits [B, V] if `keep` is 1, else [B, keep, V].
        """
        inputs: dict[str, Any] = {
            "input_ids": self._tensor(token_BT),
            "attention_mask": self._tensor(mask_BP),
            "use_cache": cache is not None,
        }
        if self._takes_positions:
            inputs["position_ids"] = self._tensor(position_BT)
        if self._takes_keep:
            inputs["logits_to_keep"] = keep
        if cache is not None:
            inputs[self._cache_name] = cache
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**inputs).logits[:, -keep:, : self.vocab_size]
        return logits[:, 0] if keep == 1 else logits

    def _tensor(self, array: Ints) -> torch.Tensor:
        # In C order also where rows were broadcast: some models view positions as one row.
        return torch.from_numpy(np.array(array, dtype=np.int64, order="C")).to(self.device)
