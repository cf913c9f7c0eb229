"""The pool's side processes: one that loads the verifier, and its forks that run it.

`main` runs in an interpreter of its own. It loads the verifier once and then forks a worker
whenever the pool asks, so that replacing one that hangs costs milliseconds and not another
import of sympy. The loader has one thread, so forking it is safe whatever the pool's own
process has loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import astuple

from gradalign.errors import GradalignError, VerifierError
from gradalign.questions import Question
from gradalign.verifiers.base import Verifier
from gradalign.verifiers.judge import judge
from gradalign.verifiers.process.protocol import (
    COMMAND,
    FORK,
    KILL,
    pack,
    receive,
)
from gradalign.verifiers.registry import get

_ADDRESS_SPACE_BYTES = 6 << 30
"""For the built-in verifiers: 9^(9^9) must not eat the machine's memory before its time is up."""


def main(descriptor: int) -> None:
    """Load the verifier that the pool names, then fork and kill on command until it hangs up."""
    # Ctrl-C goes to every process of the terminal; the pool's owner decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Standard output belongs to the program's own records.
    os.dup2(2, 1)
    # The pool may hang up at any time, and is killed at times: that ends this process in silence.
    with contextlib.suppress(ConnectionError):
        _load_and_obey(socket.socket(fileno=descriptor))


def _load_and_obey(control: socket.socket) -> None:
    order = receive(control)
    if order is None:
        return
    try:
        verifier = get(order["spec"])
        if order["spec"].partition(":")[0] == "math":
            _warm_up(verifier)
    except GradalignError as error:
        control.sendall(pack({"error": error.message, "hint": error.hint}))
        return
    except BaseException as error:  # a user's module may fail in any way
        control.sendall(pack({"error": f"{type(error).__name__}: {error}", "hint": ""}))
        return
    control.sendall(pack({"ready": True}))
    _obey(control, verifier, order["limit_memory"])


def _warm_up(verifier: Verifier) -> None:
    """Have sympy imported before the first fork, and see that math-verify works here at all.

    Raises:
        VerifierError: it does not find that one half is 0.5.
    """
    half = judge(verifier, r"\boxed{\frac{1}{2}}", Question("warm-up", "?", answer="0.5"))
    if half.reward != 1.0:
        raise VerifierError(
            f"math-verify does not find that one half is 0.5 ({half.detail or half.reward}).",
            "Install it anew, with what it needs: pip install 'gradalign[tasks]'.",
        )


def _obey(control: socket.socket, verifier: Verifier, limit_memory: bool) -> None:
    children: set[int] = set()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if len(message) < COMMAND.size:
                return
            kind, pid = COMMAND.unpack(message)
            if kind == KILL:
                children.discard(pid)
                _end(pid)
                continue
            pid = os.fork()
            if pid == 0:
                control.close()
                # A group of its own, so that what a verifier starts ends with it.
                os.setsid()
                status = 1
                try:
                    if limit_memory:
                        _limit_memory()
                    _serve(socket.socket(fileno=descriptors[0]), verifier)
                    status = 0
                finally:
                    os._exit(status)
            os.close(descriptors[0])
            children.add(pid)
            control.sendall(COMMAND.pack(FORK, pid))
    finally:
        for pid in children:
            _end(pid)


def _serve(connection: socket.socket, verifier: Verifier) -> None:
    """Answer batches until the pool hangs up: one frame per verification, as each is done."""
    while (batch := receive(connection)) is not None:
        questions = [Question.from_record(record) for record in batch["questions"]]
        for index, text in batch["items"]:
            verdict = judge(verifier, text, questions[index])
            connection.sendall(pack(astuple(verdict)))


def _end(pid: int) -> None:
    """Kill a child with all that it started, and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have made its group yet
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _limit_memory() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _ADDRESS_SPACE_BYTES if hard < 0 else min(_ADDRESS_SPACE_BYTES, hard)
    with contextlib.suppress(ValueError, OSError):  # some platforms do not have this limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
