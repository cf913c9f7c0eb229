"""Checkpoints with one thing wrong, made of the bundled student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gradalign.demo import model_path

WEIGHTS = "model.safetensors"


def copy_of(folder: Path, name: str = "student") -> Path:
    """Copy a bundled model to where it may be changed."""
    shutil.copytree(model_path(name), folder, dirs_exist_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def weights_of(folder: Path, file: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file."""
    return load_file(folder / file)


def write_weights(folder: Path, weights: dict[str, torch.Tensor], file: str = WEIGHTS) -> None:
    """Write a safetensors file, each tensor by itself."""
    save_file({key: value.clone() for key, value in weights.items()}, folder / file)


def set_config(folder: Path, file: str = "config.json", **entries: object) -> None:
    """Set entries of a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
