"""Messages between an engine and its worker process: plain bytes over a socket, no pickle.

A frame is one byte for its kind, four for the length of what follows, and the payload: JSON
for what happens once, packed arrays for what happens a thousand times.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

_HEADER = struct.Struct("<BI")

# Numbers that stand beside the tokens (or log-probabilities) of a packed row.
ROW_FIELDS = 4


class Kind(IntEnum):
    """What a frame says; those up to CLOSE go to the worker, the others come from it."""

    OPEN = 1
    SAMPLING = 2
    ADD = 3
    SCORE = 4
    ABORT = 5
    SLEEP = 6
    WAKE = 7
    CLOSE = 8
    READY = 9
    DONE = 10
    SCORES = 11
    SLEPT = 12
    WOKEN = 13
    ERROR = 14


Frame = tuple[Kind, bytes]


def send(sock: socket.socket, kind: Kind, payload: bytes = b"") -> None:
    """Send one frame; blocks until the operating system has taken all of it."""
    sock.sendall(_HEADER.pack(kind, len(payload)) + payload)


def send_json(sock: socket.socket, kind: Kind, content: dict[str, Any]) -> None:
    """Send one frame that holds a JSON object."""
    send(sock, kind, json.dumps(content).encode())


class Receiver:
    """Cuts a socket's stream into frames."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

    def wait(self) -> Frame | None:
        """Return the next frame; None if the other side is gone."""
        while True:
            frame = self._cut()
            if frame is not None:
                return frame
            if not self._read():
                return None

    def poll(self) -> Iterator[Frame | None]:
        """Yield the frames that are already here; None, as the last, if the other side is gone."""
        while True:
            frame = self._cut()
            if frame is not None:
                yield frame
                continue
            readable, _, _ = select.select([self._sock], [], [], 0.0)
            if not readable:
                return
            if not self._read():
                yield None
                return

    def _read(self) -> bool:
        try:
            chunk = self._sock.recv(1 << 20)
        except (ConnectionError, OSError):
            return False
        self._buffer += chunk
        return bool(chunk)

    def _cut(self) -> Frame | None:
        if len(self._buffer) < _HEADER.size:
            return None
        kind, length = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return Kind(kind), payload


def pack_rows(
    fields: Sequence[tuple[int, int, int]], values: Sequence[npt.ArrayLike], dtype: str
) -> bytes:
    """Pack rows of three numbers and an array each.

    Args:
        fields: three integers per row, below 2^63.
        values: one array per row.
        dtype: of the arrays, such as "<i4".
    """
    arrays = [np.asarray(value, dtype=dtype).reshape(-1) for value in values]
    table = np.empty((len(fields), ROW_FIELDS), dtype="<i8")
    table[:, 0] = [array.size for array in arrays]
    if fields:
        table[:, 1:] = fields
    flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
    return struct.pack("<I", len(fields)) + table.tobytes() + flat.tobytes()


def unpack_rows(
    payload: bytes, dtype: str
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[Any]]]:
    """Yield (three numbers, array) per row; the inverse of `pack_rows`."""
    (count,) = struct.unpack_from("<I", payload)
    table = np.frombuffer(payload, dtype="<i8", count=count * ROW_FIELDS, offset=4)
    table = table.reshape(count, ROW_FIELDS)
    flat = np.frombuffer(payload, dtype=dtype, offset=4 + table.nbytes)
    begin = 0
    for size, first, second, third in table.tolist():
        yield (first, second, third), flat[begin : begin + size].copy()
        begin += size
