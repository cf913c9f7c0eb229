"""Key-value caches whose rows come and go while a batch decodes.

Axes: _B rows of the batch, _U rows of trunks, _V vocabulary; a cache tensor is [rows, heads,
columns, head size]. A row's own tokens are always its last columns, so rows of different
lengths share one cache: what lies to the left of a row is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicLayer

from gradalign.engines.transformers.model_call import ModelCall
from gradalign.engines.transformers.shared_prefixes import Ids, find_trunks

Ints = npt.NDArray[np.int64]

# Columns that a buffer has to spare after a new layout, so that most steps copy nothing.
SPARE_COLUMNS = 32

# Tokens of one prefill pass; bounds the memory of its activations.
PREFILL_TOKENS = 16384


def row_capacity(rows: int) -> int:
    """Return how many rows a buffer is made for, so that most forks move nothing else."""
    return rows + rows // 2 + 32


class KeyValueStore(Protocol):
    """What the model remembers of every row of a batch.

    Attributes:
        prefilled_tokens: prompt tokens computed so far.
        joins_running: rows may be added while others decode, whatever their lengths; otherwise
            only to an empty batch, all of one length.
    """

    prefilled_tokens: int
    joins_running: bool

    def relayout(self, keep: Ints, prefixes: Sequence[Ids]) -> None:
        """Drop all rows but `keep`, then add a row for each prefix."""
        ...

    def fork(self, source_F: Ints, target_F: Ints) -> None:
        """Let each target row go on as a copy of its source.

        Args:
            source_F: rows that are no targets.
            target_F: rows that may be overwritten and, in order, rows that are added.
        """
        ...

    def step(self, token_B: Ints) -> torch.Tensor:
        """Append a token to every row and return the next token's logits, [B, V]."""
        ...

    def cells(self, rows: int, longest: int) -> int:
        """Return how many bytes `rows` rows take when the longest has `longest` tokens."""
        ...


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """A layer's cache that writes into a buffer with room to spare instead of copying it."""

    def __init__(self) -> None:
        super().__init__()
        self.key_buffer: torch.Tensor | None = None
        self.value_buffer: torch.Tensor | None = None
        self.rows = self.columns = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new keys and values, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.columns + key_states.shape[-2]
        self.key_buffer = self._append(self.key_buffer, key_states, end)
        self.value_buffer = self._append(self.value_buffer, value_states, end)
        self.rows, self.columns = len(key_states), end
        return self._show()

    def fork(self, source_F: torch.Tensor, target_F: torch.Tensor, rows: int) -> None:
        """Copy rows over others, of `rows` in all."""
        self.key_buffer = self._copy(self.key_buffer, source_F, target_F, rows)
        self.value_buffer = self._copy(self.value_buffer, source_F, target_F, rows)
        self.rows = rows
        self._show()

    def _copy(
        self, buffer: Any, source_F: torch.Tensor, target_F: torch.Tensor, rows: int
    ) -> torch.Tensor:
        copied = buffer[source_F, :, : self.columns]
        if rows > len(buffer):
            buffer = torch.nn.functional.pad(
                buffer, (0, 0, 0, 0, 0, 0, 0, row_capacity(rows) - len(buffer))
            )
        buffer[target_F, :, : self.columns] = copied
        return cast(torch.Tensor, buffer)

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.key_buffer is not None
        assert self.value_buffer is not None
        self.keys = self.key_buffer[: self.rows, :, : self.columns]
        self.values = self.value_buffer[: self.rows, :, : self.columns]
        return self.keys, self.values

    def _append(self, buffer: torch.Tensor | None, new: torch.Tensor, end: int) -> torch.Tensor:
        if buffer is None:  # the prefill of trunks: nothing will be added
            return new
        if end > buffer.shape[2]:
            buffer = torch.nn.functional.pad(
                buffer, (0, 0, 0, end - buffer.shape[2] + SPARE_COLUMNS)
            )
        buffer[: len(new), :, self.columns : end] = new
        return buffer

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values, for which transformers has no common name."""
        return self.keys, self.values

    def adopt(self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int) -> None:
        """Take buffers of which the first `rows` rows and `columns` columns are in use."""
        self.key_buffer, self.value_buffer = keys, values
        self.rows, self.columns = rows, columns
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self._show()


class SlicedStore:
    """Rows of any length in one cache, for models whose layers all keep keys and values.

    Sliding-window layers keep all columns too; the window is in the mask, which transformers
    builds from column distances, and those equal token distances within a row.
    """

    joins_running = True

    def __init__(self, call: ModelCall, bytes_per_cell: int) -> None:
        self._call = call
        self._bytes_per_cell = bytes_per_cell
        self._cache: Cache = Cache(layer_class_to_replicate=GrowingLayer)
        self._length_B: Ints = np.zeros(0, dtype=np.int64)
        self._columns = 0
        self.prefilled_tokens = 0

    def cells(self, rows: int, longest: int) -> int:
        """Return the bytes of a layout, spare columns and rows included."""
        return row_capacity(rows) * (longest + SPARE_COLUMNS) * self._bytes_per_cell

    def relayout(self, keep: Ints, prefixes: Sequence[Ids]) -> None:
        """Rebuild the cache: kept rows first, then one row for each prefix."""
        fresh_B = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
        grafts = self._graft(prefixes, fresh_B)
        held_B = self._length_B[keep]
        length_B = np.concatenate([held_B, fresh_B])
        columns = int(length_B.max(initial=0))
        # What every row overwrites need not be cleared; masked columns must not hold NaN.
        widths = [graft.width for graft in grafts] + ([int(held_B.max())] if len(keep) else [])
        covered = len(grafts) <= 1 and bool((fresh_B > 0).all())
        clear = columns - min(widths) if covered and widths else columns
        old = self._cache.layers
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        if columns > 0:
            keep_B = torch.from_numpy(keep).to(self._call.device)
            for number in range(len(grafts[0].layers) if grafts else len(old)):
                buffers = []
                for part in (0, 1):  # keys, values
                    like = grafts[0].layers[number][part] if grafts else old[number].pair()[part]
                    room = (row_capacity(len(length_B)), columns + SPARE_COLUMNS)
                    buffer = like.new_empty((room[0], like.shape[1], room[1], like.shape[3]))
                    buffer[: len(length_B), :, :clear] = 0
                    if len(keep):
                        used = int(held_B.max())
                        held = old[number].pair()[part][:, :, self._columns - used :]
                        buffer[: len(keep), :, columns - used : columns] = held[keep_B]
                    for graft in grafts:
                        new = buffer[len(keep) : len(length_B), :, :columns]
                        graft.copy_into(new, number, part)
                    buffers.append(buffer)
                if number < len(old):
                    # Free each old layer at once: two whole caches would not fit.
                    old[number] = GrowingLayer()
                layer = GrowingLayer()
                layer.adopt(buffers[0], buffers[1], len(length_B), columns)
                cache.layers.append(layer)
        self._cache, self._length_B, self._columns = cache, length_B, columns

    def fork(self, source_F: Ints, target_F: Ints) -> None:
        """Let rows go on as copies of others; see KeyValueStore."""
        rows = max(len(self._length_B), int(target_F.max(initial=-1)) + 1)
        self._length_B = np.pad(self._length_B, (0, rows - len(self._length_B)))
        self._length_B[target_F] = self._length_B[source_F]
        source, target = (torch.from_numpy(x).to(self._call.device) for x in (source_F, target_F))
        for layer in self._cache.layers:
            layer.fork(source, target, rows)

    def step(self, token_B: Ints) -> torch.Tensor:
        """Append a token to every row; return the next token's logits, [B, V]."""
        first_B = self._columns - self._length_B
        mask_BP = np.arange(self._columns + 1)[None, :] >= first_B[:, None]
        logits_BV = self._call(
            token_B[:, None], mask_BP.astype(np.int64), self._length_B[:, None], self._cache
        )
        self._length_B = self._length_B + 1
        self._columns += 1
        return logits_BV

    def _graft(self, prefixes: Sequence[Ids], length_B: Ints) -> list[_Graft]:
        """Prefill the trunks of some prefixes, in passes of bounded size."""
        trunks = find_trunks(prefixes)
        trunk_of_B = np.array(trunks.trunk_of, dtype=np.int64)
        order = sorted(range(len(trunks.ids)), key=lambda i: len(trunks.ids[i]))
        grafts = []
        begin = 0
        while begin < len(order):
            end = begin + 1
            while end < len(order):
                if (end + 1 - begin) * len(trunks.ids[order[end]]) > PREFILL_TOKENS:
                    break
                end += 1
            some = order[begin:end]
            begin = end
            place = np.full(len(order), -1)
            place[some] = np.arange(len(some))
            # Rows with an empty prefix belong to no trunk: all of their columns are masked.
            row_B = np.flatnonzero((trunk_of_B >= 0) & (place[trunk_of_B] >= 0))
            layers = self._prefill([trunks.ids[i] for i in some])
            grafts.append(_Graft(layers, row_B, place[trunk_of_B[row_B]], length_B[row_B]))
        return grafts

    def _prefill(self, trunks: Sequence[Ids]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        length_U = np.array([len(trunk) for trunk in trunks])
        widest = int(length_U.max())
        token_UP = np.zeros((len(trunks), widest), dtype=np.int64)
        for row, trunk in enumerate(trunks):
            token_UP[row, : len(trunk)] = trunk
        column_P = np.arange(widest)
        mask_UP = (column_P[None, :] < length_U[:, None]).astype(np.int64)
        position_UP = np.broadcast_to(column_P, token_UP.shape)
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        # Right padding: a causal model's real tokens never see what follows them.
        self._call(token_UP, mask_UP, position_UP, cache)
        self.prefilled_tokens += int(length_U.sum())
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._bytes_per_cell = sum(  # measured: the configuration does not always tell
            part.shape[1] * part.shape[3] * part.element_size() for pair in layers for part in pair
        )
        return layers


class _Graft:
    """Prefilled trunks and the rows that take their beginnings from them.

    Args:
        layers: keys and values of the trunks, [trunks, heads, columns, head size] each.
        row_B: which of the new rows these are.
        trunk_B: the trunk of each row.
        length_B: how many tokens of its trunk each row takes.

    Attributes:
        width: the longest of these, and the number of columns that `copy_into` writes.
    """

    def __init__(
        self,
        layers: list[tuple[torch.Tensor, torch.Tensor]],
        row_B: Ints,
        trunk_B: Ints,
        length_B: Ints,
    ) -> None:
        self.layers = layers
        self.width = int(length_B.max())
        device = layers[0][0].device
        column_BP = np.arange(self.width) - (self.width - length_B)[:, None]
        self._column_BP = torch.from_numpy(np.maximum(column_BP, 0)).to(device)
        self._row_B = torch.from_numpy(row_B).to(device)
        self._trunk_B1 = torch.from_numpy(trunk_B[:, None]).to(device)

    def copy_into(self, buffer: torch.Tensor, number: int, part: int) -> None:
        """Write one layer's keys (part 0) or values (1) into the new rows, right-aligned."""
        taken = self.layers[number][part][self._trunk_B1, :, self._column_BP].transpose(1, 2)
        buffer[self._row_B, :, buffer.shape[2] - self.width :] = taken
