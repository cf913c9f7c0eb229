"""Batches whose rows all have one length, for models that keep more than keys and values.

Axes: _B rows of the batch, _U distinct prefixes, _T tokens, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from gradalign.engines.transformers.model_call import Ints, ModelCall
from gradalign.engines.transformers.shared_prefixes import Ids


class UniformStore:
    """Rows of one length in whatever cache the model makes for itself.

    For models with linear attention, state spaces or other layers that have no columns to cut:
    a prompt's state is computed once and copied to its rows, and no row is ever padded.
    """

    joins_running = False

    def __init__(self, call: ModelCall, bytes_per_cell: int) -> None:
        self._call = call
        self._bytes_per_cell = bytes_per_cell
        self._cache: Any = None
        self._rows = 0
        self._length = 0
        self.prefilled_tokens = 0

    def cells(self, rows: int, longest: int) -> int:
        """Return an upper bound of the bytes of a batch."""
        return rows * longest * self._bytes_per_cell

    def relayout(self, keep: Ints, prefixes: Sequence[Ids]) -> None:
        """Drop rows, or fill an empty batch with prefixes of one length."""
        if not prefixes:
            if self._cache is not None and len(keep):
                self._cache.reorder_cache(torch.from_numpy(keep).to(self._call.device))
            elif not len(keep):
                self._cache = None
            self._rows = len(keep)
            return
        if len(keep) or len({len(prefix) for prefix in prefixes}) != 1:
            raise ValueError("rows of one length can only enter an empty batch")
        distinct = sorted(set(prefixes))
        place = {prefix: row for row, prefix in enumerate(distinct)}
        self._rows, self._length, self._cache = len(prefixes), len(distinct[0]), None
        if not self._length:
            return
        self._cache = DynamicCache(config=self._call.config)
        column_P = np.arange(self._length)
        token_UP = np.array(distinct, dtype=np.int64)
        position_UP = np.broadcast_to(column_P, token_UP.shape)
        self._call(token_UP, np.ones_like(token_UP), position_UP, self._cache)
        self.prefilled_tokens += token_UP.size
        source_B = torch.tensor([place[prefix] for prefix in prefixes], device=self._call.device)
        self._cache.reorder_cache(source_B)

    def fork(self, source_F: Ints, target_F: Ints) -> None:
        """Let rows go on as copies of others; see KeyValueStore."""
        self.relayout(forked(self._rows, source_F, target_F), [])

    def step(self, token_B: Ints) -> torch.Tensor:
        """Append a token to every row; return the next token's logits, [B, V]."""
        if self._cache is None:
            self._cache = DynamicCache(config=self._call.config)
        mask_BP = np.ones((self._rows, self._length + 1), dtype=np.int64)
        position_B1 = np.full((self._rows, 1), self._length)
        logits_BV = self._call(token_B[:, None], mask_BP, position_B1, self._cache)
        self._length += 1
        return logits_BV


class RecomputingStore:
    """No cache at all: every step reads the whole sequence. Slow, and right for any model.

    Args:
        call: the model.
        apart: read one row at a time, for a model whose rows depend on one another.
    """

    joins_running = False

    def __init__(self, call: ModelCall, *, apart: bool = False) -> None:
        self._call = call
        self._apart = apart
        self._token_BT: Ints = np.zeros((0, 0), dtype=np.int64)
        self.prefilled_tokens = 0

    def cells(self, rows: int, longest: int) -> int:
        """Return 0: nothing is kept between steps."""
        return 0

    def relayout(self, keep: Ints, prefixes: Sequence[Ids]) -> None:
        """Drop rows, or fill an empty batch with prefixes of one length."""
        if prefixes:
            self._token_BT = np.array(prefixes, dtype=np.int64)
        else:
            self._token_BT = self._token_BT[keep]

    def fork(self, source_F: Ints, target_F: Ints) -> None:
        """Let rows go on as copies of others; see KeyValueStore."""
        self.relayout(forked(len(self._token_BT), source_F, target_F), [])

    def step(self, token_B: Ints) -> torch.Tensor:
        """Append a token to every row; return the next token's logits, [B, V]."""
        self._token_BT = np.concatenate([self._token_BT, token_B[:, None]], axis=1)
        self.prefilled_tokens += self._token_BT.size
        if self._apart:
            return torch.cat([self._read(token_T[None]) for token_T in self._token_BT])
        return self._read(self._token_BT)

    def _read(self, token_BT: Ints) -> torch.Tensor:
        position_BT = np.broadcast_to(np.arange(token_BT.shape[1]), token_BT.shape)
        return self._call(token_BT, np.ones_like(token_BT), position_BT, None)


def forked(rows: int, source_F: Ints, target_F: Ints) -> Ints:
    """Return which old row each row goes on from when some are copies."""
    old_B = np.arange(max(rows, int(target_F.max(initial=-1)) + 1))
    old_B[target_F] = source_F
    return old_B
