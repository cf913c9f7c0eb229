"""`gradalign` commands as processes of their own, to be killed or interrupted.

They are forked from a process that has imported torch and transformers already: that is what takes
most of the time of a short command.
"""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path

PRELOADED = [
    "gradalign_cli.main",
    "gradalign.pipeline",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "torch",
    "transformers.models.qwen3.modeling_qwen3",
]


class Command:
    """A running command; what it prints goes to files.

    Args:
        arguments: as on the command line, without the program's name.
        folder: where the files of its output go.
        name: of those files.
    """

    def __init__(self, arguments: list[str], folder: Path, name: str = "command") -> None:
        folder.mkdir(exist_ok=True)
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(
            target=_run, args=(arguments, str(self._out), str(self._err)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs, negative after a signal."""
        return self._process.exitcode

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return self._err.read_text()

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Wait for the end and return the exit status."""
        self._process.join(seconds)
        assert self.status is not None, f"not done in {seconds:g} s: {self.err}"
        return self.status


def _run(arguments: list[str], out: str, err: str) -> None:
    for file, number in ((out, 1), (err, 2)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    # A shell that runs the tests in the background has made them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    from gradalign_cli.main import main

    torch.set_num_threads(1)
    sys.argv = ["gradalign", *arguments]
    main(arguments)
