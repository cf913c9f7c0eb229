"""A worker process and the line to it: started, listened to, and never waited for in vain."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from gradalign.engines.vllm.protocol import Frame, Kind, Receiver, send
from gradalign.errors import EngineError

_TAIL_LINES = 12
_CLOSE_SECONDS = 10.0


class WorkerProcess:
    """Runs `python -m MODULE FD` and exchanges frames with it.

    The child is the leader of its own session: Ctrl-C reaches only the parent, which then
    closes the child and all of its children. If the parent dies, the child sees the end of the
    socket and leaves.

    Args:
        module: what the child runs.
        environment: variables to set on top of this process's own.
        title: the worker's name in error messages.
    """

    def __init__(self, module: str, environment: Mapping[str, str], title: str) -> None:
        self.title = title
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed by close()
        ours, theirs = socket.socketpair()
        package_root = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH", "")
        paths = [package_root, *filter(None, inherited.split(os.pathsep))]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._sock = ours
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        # A thread always reads, so that neither side can block the other with a full socket.
        threading.Thread(target=_read_all, args=(Receiver(ours), self._frames), daemon=True).start()
        # Nothing has been asked of it yet: it may be ended in the middle of whatever it does.
        self._finalizer = weakref.finalize(self, _stop, self._process, ours, 0.0)
        self._asked = False

    @property
    def alive(self) -> bool:
        """Whether the child has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame.

        Raises:
            EngineError: the child is gone.
        """
        if not self._asked:
            self._asked = True
            self._finalizer.detach()
            self._finalizer = weakref.finalize(
                self, _stop, self._process, self._sock, _CLOSE_SECONDS
            )
        try:
            send(self._sock, kind, payload)
        except OSError as error:
            raise self.death() from error

    def receive(self) -> Frame:
        """Wait for the next frame.

        Raises:
            EngineError: the child is gone; with the last lines it printed.
        """
        frame = self._frames.get()
        if frame is None:
            self._frames.put(None)  # whoever asks next gets the same answer
            raise self.death()
        return frame

    def death(self) -> EngineError:
        """Describe how the child ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2.0)
        code = self._process.poll()
        how = "is gone" if code is None else f"ended with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        tail = self.log_tail()
        return EngineError(
            f"the {self.title} {how}." + (f" Its last lines:\n{tail}\n" if tail else ""),
            "Finished shards are kept: run the same command again. If it was killed for lack of "
            "memory, lower max_num_seqs or the context length.",
        )

    def log_tail(self) -> str:
        """Return the last lines that the child printed."""
        if self._log.closed:
            return ""
        # pread leaves the file offset alone, which the child writes at.
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14)))
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-_TAIL_LINES:])

    def close(self) -> None:
        """Ask the child to leave, wait a little, and see to it that it is gone."""
        self._finalizer()
        self._log.close()


def _read_all(receiver: Receiver, frames: queue.SimpleQueue[Frame | None]) -> None:
    while (frame := receiver.wait()) is not None:
        frames.put(frame)
    frames.put(None)


def _stop(process: subprocess.Popen[bytes], sock: socket.socket, patience_seconds: float) -> None:
    with contextlib.suppress(OSError):
        send(sock, Kind.CLOSE)
        sock.shutdown(socket.SHUT_WR)
    try:
        process.wait(timeout=patience_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # The session's other processes too, such as tensor-parallel ranks.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        sock.close()
