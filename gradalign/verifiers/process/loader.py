"""The pool's hold on the process that loads the verifier and forks workers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from gradalign.errors import VerifierError
from gradalign.verifiers.process.protocol import COMMAND, FORK, KILL, pack, receive

_START_SECONDS = 120.0
_COMMAND_SECONDS = 30.0

# Threads of numerical libraries would make forking unsafe and bring nothing to short texts.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from gradalign.verifiers.process.worker import main; main(int(sys.argv[1]))"
)

# What is bounded by construction may be bounded in memory too; a user's module may need more.
_LIMITED = ("math", "regex")


@dataclass(frozen=True)
class WorkerLink:
    """A worker: its process id and the socket that leads to it."""

    pid: int
    connection: socket.socket


class Loader:
    """Starts `gradalign.verifiers.process.worker` and asks it for workers.

    A new interpreter and not `multiprocessing`: it imports neither the caller's main module
    nor whatever that has loaded, and needs no `if __name__ == "__main__"` in a script.

    Args:
        spec: the verifier to load.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False

    def start(self) -> None:
        """Start the process if it is not there; it loads the verifier in its own time."""
        if self._process is not None:
            return
        if not hasattr(os, "fork"):
            raise VerifierError(
                f"verifier {self._spec} runs in forked processes, which this system does not have.",
                "Use Linux or macOS (on Windows: WSL), or the verifier exact or choice.",
            )
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(theirs.fileno()), path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )
        ours.settimeout(_START_SECONDS)
        self._control = ours
        self._ready = False
        ours.sendall(
            pack(
                {
                    "spec": self._spec,
                    "limit_memory": self._spec.partition(":")[0] in _LIMITED,
                }
            )
        )

    def fork(self) -> WorkerLink:
        """Return a new worker.

        Raises:
            VerifierError: the verifier cannot be loaded there, or the process is gone.
        """
        self.start()
        control = self._wait()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
            reply = control.recv(COMMAND.size, socket.MSG_WAITALL)
        except OSError as error:
            ours.close()
            raise self._gone() from error
        if len(reply) < COMMAND.size:
            ours.close()
            raise self._gone()
        return WorkerLink(COMMAND.unpack(reply)[1], ours)

    def kill(self, pid: int) -> None:
        """End a worker and whatever it started."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # without the loader there are no workers either
                self._control.sendall(COMMAND.pack(KILL, pid))

    def close(self) -> None:
        """Hang up: the process ends all workers and then itself."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            if not self._ready:
                self._process.kill()  # it may still be importing, and has no workers
            try:
                self._process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._ready = False

    def trouble(self) -> VerifierError | None:
        """Wait until the verifier is loaded; return what it fails with, None if it is there.

        Raises:
            VerifierError: the process is gone.
        """
        assert self._control is not None
        if not self._ready:
            try:
                reply = receive(self._control)
            except TimeoutError as error:
                raise VerifierError(
                    f"verifier {self._spec} was not loaded within {_START_SECONDS:g} s.",
                    "See what its module does when it is imported.",
                ) from error
            except OSError:
                reply = None
            if reply is None:
                raise self._gone()
            if "error" in reply:
                return VerifierError(
                    f"verifier {self._spec} cannot be loaded in a process of its own: "
                    f"{reply['error']}",
                    reply["hint"] or "It must be importable by name.",
                )
            self._ready = True
            self._control.settimeout(_COMMAND_SECONDS)
        return None

    def _wait(self) -> socket.socket:
        trouble = self.trouble()
        if trouble is not None:
            raise trouble
        assert self._control is not None
        return self._control

    def _gone(self) -> VerifierError:
        status = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(timeout=1.0)
        when = "" if self._ready else " while it was loaded"
        return VerifierError(
            f"the process of verifier {self._spec} ended{when} (status {status}).",
            "What it printed is above; its module may end the interpreter, or it was killed for "
            "memory.",
        )


def try_to_load(spec: str) -> VerifierError | None:
    """Load a verifier in a process of its own, as a pool will, and end it again.

    Returns:
        What it failed with, None if it was loaded: loading it in this process may say it better.

    Raises:
        VerifierError: the process ended meanwhile, as this one would.
    """
    loader = Loader(spec)
    try:
        loader.start()
        return loader.trouble()
    finally:
        loader.close()
