"""`gradalign`: puts the commands together; each is a module of `commands`.

Exit status: 0 done, 1 failed, 2 usage, 3 a threshold was missed, 4 stopped at the gate,
5 a threshold is undecided, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, TextIO

import typer

from gradalign.errors import GateError, GradalignError
from gradalign.progress import quiet_processes

from . import completion
from .commands import (
    catalogue,
    check,
    check_teacher,
    compare,
    demo,
    diagnose,
    export,
    lint,
    plan,
    recommend,
    rehearse,
    report,
    rescore,
    score,
    show,
)
from .help import HelpGroup

app = typer.Typer(
    name="gradalign",
    cls=HelpGroup,
    help="Before you spend GPU weeks on distillation: where would that update actually point?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
score.add_to(app)
plan.add_to(app)
demo.add_to(app)
recommend.add_to(app)
report.add_to(app)
diagnose.add_to(app)
check.add_to(app)
check_teacher.add_to(app)
rehearse.add_to(app)
rescore.add_to(app)
show.add_to(app)
compare.add_to(app)
export.add_to(app)
lint.add_to(app)
catalogue.add_to(app)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"gradalign {version('gradalign')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


@cache
def program() -> Any:
    """Return the command line as a callable, put together once in a process."""
    return typer.main.get_command(app)


INTERRUPTED = 130
TERMINATED = 143
_KEPT = "interrupted; finished shards are kept, run the same command to go on."


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    if os.environ.get(completion.VARIABLE) == "complete_bash":
        completion.complete_in_bash(lambda: program()(prog_name="gradalign"))
        return
    with warnings.catch_warnings(), quiet_processes():
        warnings.showwarning = _warn
        with _terminations() as came:
            status = _status(arguments)
        sys.exit(TERMINATED if came and status == INTERRUPTED else status)


@contextmanager
def _terminations() -> Iterator[list[int]]:
    """Let SIGTERM end the block as Ctrl-C does, so that a run is left in order; yield what came.

    Schedulers send it before they kill. A process that is forked meanwhile dies of it at once.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        came.append(number)
        raise KeyboardInterrupt

    own = os.getpid()
    default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _status(arguments: list[str] | None) -> int:
    _SAID.clear()
    try:
        status = program()(arguments, standalone_mode=False, prog_name="gradalign")
        if status == INTERRUPTED:  # typer turns Ctrl-C into this
            _fail(_KEPT)
    except typer.TyperException as error:
        _usage(error)
        status = 2
    except GateError as error:
        _show(error)
        status = error.exit_code
    except GradalignError as error:
        _fail(error.message, error.hint)
        status = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _fail(_KEPT)
        status = INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - closed with the process
        status = 1
    return status if isinstance(status, int) else 0


def _usage(error: typer.TyperException) -> None:
    """Print a usage error as typer would."""
    show = getattr(error, "show", None)
    if show is not None:
        show()
    else:
        _fail(error.format_message())


_SAID: set[str] = set()


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning once, without the line of code that gave it."""
    text = " ".join(str(message).split())
    if text not in _SAID:
        _SAID.add(text)
        print(f"gradalign: warning: {text}", file=sys.stderr)


def _fail(text: str, hint: str = "") -> None:
    """Print what went wrong: a line in a pipe; on a terminal no word and no command is broken."""
    whole = f"gradalign: {' '.join(text.split())} {hint}".strip()
    if not sys.stderr.isatty():
        print(" ".join(whole.split()), file=sys.stderr)
        return
    from gradalign.report.terminal.tables import terminal_width

    width = terminal_width(sys.stderr)
    for line in whole.split("\n"):
        is_command = line.startswith("  ")
        print(line if is_command else _filled(line, width), file=sys.stderr)


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, max(width - 1, 20), break_long_words=False, break_on_hyphens=False)


def _show(error: GateError) -> None:
    """Print an error that has lines of its own, which hold what a model has written."""
    from gradalign.report.format import visible

    print(f"gradalign: {visible(str(error), newlines=True)}", file=sys.stderr)


if __name__ == "__main__":
    main()
