"""Building a table column by column, from scalars and arrays, in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from gradalign.store.schema import schema


class Rows:
    """Collects rows of one table; every piece must name every column."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._schema = schema(table)
        self._pieces: list[pa.RecordBatch] = []

    def add(self, count: int = 1, **columns: Any) -> None:
        """Append `count` rows; a scalar (or a string) fills its column, an array is the column.

        Raises:
            ValueError: a column is missing, unknown, or not `count` long.
        """
        if set(columns) != set(self._schema.names):
            odd = set(columns) ^ set(self._schema.names)
            raise ValueError(f"table {self.table}: missing or unknown columns {sorted(odd)}")
        arrays = [_column(columns[field.name], field.type, count) for field in self._schema]
        for field, array in zip(self._schema, arrays, strict=True):
            if len(array) != count:
                raise ValueError(
                    f"table {self.table}: column {field.name} has {len(array)} rows, not {count}"
                )
        self._pieces.append(pa.RecordBatch.from_arrays(arrays, schema=_plain(self._schema)))

    def table_of(self) -> pa.Table:
        """Return everything that was added, in order."""
        return pa.Table.from_batches(self._pieces, schema=_plain(self._schema)).cast(self._schema)


def _plain(kind: pa.Schema) -> pa.Schema:
    """Replace dictionary types by their values' type: pieces have dictionaries of their own."""
    return pa.schema([pa.field(field.name, _value_type(field.type)) for field in kind])


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _column(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    kind = _value_type(kind)
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.DictionaryArray):
        value = value.dictionary_decode()
    if isinstance(value, pa.Array):
        return value.cast(kind)
    if isinstance(value, (list, tuple, np.ndarray)):
        if isinstance(value, np.ndarray) and pa.types.is_list(kind) and value.ndim == 2:
            flat = pa.array(value.reshape(-1), type=kind.value_type)
            width = value.shape[1]
            offsets = np.arange(0, value.size + 1, max(width, 1), dtype=np.int32)
            if width:
                return pa.ListArray.from_arrays(pa.array(offsets), flat)
            return pa.array([[]] * count, type=kind)
        return pa.array(value, type=kind, from_pandas=True)
    return pa.repeat(pa.scalar(value, type=kind), count)
