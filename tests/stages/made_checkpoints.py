"""Checkpoints of a test's own: copies of the bundled ones that can be changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from gradalign.demo import model_path


def copy_of(name: str, folder: Path) -> Path:
    """Copy a bundled model."""
    return Path(shutil.copytree(model_path(name), folder))


def scale_weights(folder: Path, factor: float, only: str = "") -> None:
    """Multiply weights (those whose names have `only` in them), and keep size and time stamp."""
    path = folder / "model.safetensors"
    before = path.stat()
    weights = {
        name: tensor * factor if only in name else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
