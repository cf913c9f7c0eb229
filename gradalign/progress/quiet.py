"""Keeping libraries' own progress bars off the screen.

transformers, huggingface_hub, datasets and vLLM draw theirs with tqdm ("Loading weights",
"Converting ...", "Generating train split"); ours says the same of the whole run. Log lines,
warnings and errors of these libraries are left as they are.
"""

from __future__ import annotations

import importlib
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SWITCHES = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Variables that libraries look at when they are imported; child processes have them too."""


@contextmanager
def quiet_processes() -> Iterator[None]:
    """Set the variables for as long as the block lasts, unless the user has set them."""
    missing = [name for name in SWITCHES if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "1"))
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Let no bar that is begun within the block be drawn, in this process or its children.

    A bar that the caller began before goes on.
    """
    with quiet_processes():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # in a notebook it asks for ipywidgets
                importlib.import_module("tqdm.auto")
            tqdm: Any = importlib.import_module("tqdm.std").tqdm
        except ImportError:  # nothing to silence
            yield
            return
        with _hidden(tqdm):
            yield


_LOCK = threading.Lock()
_BLOCKS = 0
"""How many blocks hide bars now: threads may end them in any order."""


@contextmanager
def _hidden(tqdm: Any) -> Iterator[None]:
    """Hide what begins, until the last of the blocks has ended."""
    global _BLOCKS
    with _LOCK:
        _BLOCKS += 1
        if _BLOCKS == 1:
            begin = tqdm.__init__

            def begin_hidden(self: Any, *arguments: Any, **options: Any) -> None:
                begin(self, *arguments, **{**options, "disable": True})

            begin_hidden.shown = begin  # type: ignore[attr-defined]
            # Every variant of tqdm, the libraries' own among them, begins here.
            tqdm.__init__ = begin_hidden
    try:
        yield
    finally:
        with _LOCK:
            _BLOCKS -= 1
            if _BLOCKS == 0:
                tqdm.__init__ = tqdm.__init__.shown
