"""What goes between the pool and its processes: length-prefixed JSON."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")

COMMAND = struct.Struct("!cq")
"""To the loader: FORK (with a socket as ancillary data) or KILL, and a worker's process id."""

FORK, KILL = b"F", b"K"


def pack(value: object) -> bytes:
    """Return a frame: the length of the JSON in 8 bytes, then the JSON."""
    # ASCII escapes carry lone surrogates, which a decoded response can hold.
    data = json.dumps(value, ensure_ascii=True, default=str, skipkeys=True).encode("ascii")
    return _LENGTH.pack(len(data)) + data


def receive(connection: socket.socket) -> Any:
    """Read one frame; None at the end of the stream."""
    head = _read(connection, _LENGTH.size)
    if head is None:
        return None
    body = _read(connection, _LENGTH.unpack(head)[0])
    return None if body is None else json.loads(body)


def _read(connection: socket.socket, size: int) -> bytes | None:
    chunks = []
    while size:
        chunk = connection.recv(min(size, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


class Unpacker:
    """Cuts a stream of bytes, as it comes, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Add bytes; return the frames that are complete now."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            frames.append(json.loads(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return frames
