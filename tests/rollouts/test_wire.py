"""Frames over a real socket pair."""

from __future__ import annotations

import socket

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradalign.engines.vllm.protocol import Kind, Receiver, pack_rows, send, unpack_rows

number = st.integers(-(2**63), 2**63 - 1)
row = st.tuples(
    st.tuples(number, number, number), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9)
)


@given(st.lists(row, max_size=8))
def test_rows_survive(rows: list[tuple[tuple[int, int, int], list[int]]]) -> None:
    payload = pack_rows([fields for fields, _ in rows], [ids for _, ids in rows], "<i4")
    found = [(fields, ids.tolist()) for fields, ids in unpack_rows(payload, "<i4")]
    assert found == rows


def test_frames_are_cut_wherever_the_stream_breaks() -> None:
    left, right = socket.socketpair()
    with left, right:
        receiver = Receiver(right)
        assert list(receiver.poll()) == []
        send(left, Kind.ABORT)
        send(left, Kind.ADD, b"x" * 70000)
        frames = []
        while len(frames) < 2:
            frames += list(receiver.poll())
        assert frames == [(Kind.ABORT, b""), (Kind.ADD, b"x" * 70000)]
        left.sendall(b"\x03\x05\x00")
        assert list(receiver.poll()) == []
        left.sendall(b"\x00\x00hello")
        assert receiver.wait() == (Kind(3), b"hello")
        left.close()
        assert list(receiver.poll()) == [None]
        assert receiver.wait() is None


def test_scores_keep_their_bits() -> None:
    values = np.array([-1.5, -np.inf, 3e-39], np.float32)
    ((_, found),) = unpack_rows(pack_rows([(0, 0, 0)], [values], "<f4"), "<f4")
    assert found.tobytes() == values.tobytes()
