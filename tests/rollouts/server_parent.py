"""Imports vLLM once and forks a server from itself whenever it is asked for one.

Most of what a start of `python -m vllm.entrypoints.openai.api_server` takes is importing vLLM, and
that twice: on a machine without a GPU its engine core, a process of its own, imports it again.

Each line of the standard input is JSON: `arguments` of the server and the `log` to write to; it is
answered by the server's process id. At the end of the input everything ends.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import runpy
import signal
import sys
import traceback
from typing import NoReturn

SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Serve the standard input until it ends."""
    _import_vllm()
    gc.freeze()  # servers look for garbage when they have started; this is none
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a server that ended is gone at once
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _serve(**json.loads(line))
        print(pid, flush=True)


def _import_vllm() -> None:
    import vllm.entrypoints.openai.api_server
    import vllm.entrypoints.openai.completion.api_router
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.utils as starting
    import vllm.v1.worker.cpu_worker  # noqa: F401, what the engine core imports

    # On a CPU it would be spawned. With one thread a fork is safe: torch has no others to lose.
    starting.get_mp_context = lambda: multiprocessing.get_context("fork")


def _serve(arguments: list[str], log: str) -> NoReturn:
    """Be the server."""
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # it is ended with all of its own processes
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(stream, target)
    sys.argv = [SERVER, *arguments]
    status = 1
    try:
        runpy.run_module(SERVER, run_name="__main__", alter_sys=True)
        status = 0
    except BaseException:  # it must not go on as a second parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _die_with_parent() -> None:
    """Let no server outlive a test session that was killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
