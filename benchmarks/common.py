"""Shared parts of the benchmarks: their arguments, where they ran, child processes, JSON files."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gradalign.store import manifest

OUT = Path(__file__).parent / "out"
"""Where results go that are not kept."""


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that is described by the first line of a script's docstring."""
    return argparse.ArgumentParser(description=(doc or "").partition("\n")[0])


def environment() -> dict[str, Any]:
    """Say when and on what the numbers were made: date, hardware, load, versions."""
    versions = manifest.versions()
    with contextlib.suppress(PackageNotFoundError):
        versions["trl"] = version("trl")
    hardware = {name: value for name, value in manifest.hardware().items() if name != "platform"}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": {
            **hardware,
            "processor": processor(),
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "versions": versions,
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def in_a_process(
    script: str, arguments: Sequence[str], *, errors: Path | None = None, **variables: str
) -> Any:
    """Run a script in a fresh Python process and return the JSON of its last line.

    Args:
        script: the file.
        arguments: its command line.
        errors: a file that takes its stderr; None leaves it where it is.
        variables: environment variables beside the present ones.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, script, *arguments]
    with contextlib.nullcontext() if errors is None else errors.open("wb") as stream:
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**os.environ, **variables},
        )
    return json.loads(done.stdout.splitlines()[-1])


def write_json(path: Path, record: Any, *, indent: int = 1) -> None:
    """Write a result, folders above it included; numbers that JSON does not have become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(record), indent=indent, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Turn numpy's scalars into Python's, paths into text, and NaN and infinities into None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
