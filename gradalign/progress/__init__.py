"""Telling a person how far a run is: bars on a terminal or in a notebook, else plain lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from gradalign.progress.base import Reporter, SilentReporter, StageProgress
from gradalign.progress.lines import PlainReporter
from gradalign.progress.quiet import quiet_bars, quiet_processes
from gradalign.progress.state import Watcher
from gradalign.progress.words import spoken

__all__ = [
    "Display",
    "PlainReporter",
    "Reporter",
    "SilentReporter",
    "StageProgress",
    "make_reporter",
    "quiet_processes",
    "reporting",
    "spoken",
]

Display = Literal["auto", "rich", "plain", "none"]

IMPORTING = "importing libraries (torch, transformers, pandas)"


def make_reporter(display: Display, *, changes: bool = True) -> Reporter:
    """Return the reporter for `--display`.

    Args:
        display: auto is bars in a notebook and on a terminal, lines elsewhere; rich is bars,
            plain is lines, none is silence.
        changes: whether lines, where auto comes to them, tell what begins and ends too; without,
            there is one every 30 seconds.
    """
    from gradalign.progress import bars

    if display == "none":
        return SilentReporter()
    if display in {"auto", "rich"} and bars.in_notebook():
        return bars.NotebookReporter()
    if display == "rich" or (display == "auto" and _draws(sys.stderr)):
        return bars.RichReporter()
    return PlainReporter(changes=changes or display == "plain")


def _draws(out: TextIO) -> bool:
    """Whether a stream is a terminal that can draw over what it has drawn."""
    return out.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}


@contextmanager
def reporting(display: Display, *, changes: bool = True) -> Iterator[Reporter]:
    """Tell of what is done in the block, from now on, and keep libraries' bars away.

    Import what is heavy inside the block: until then the user sees nothing.

    Args:
        display: see `make_reporter`.
        changes: see `make_reporter`.
    """
    reporter = make_reporter(display, changes=changes)
    try:
        reporter.activity(IMPORTING)
        with quiet_bars():
            yield reporter
    finally:
        if isinstance(reporter, Watcher):
            reporter.close()
