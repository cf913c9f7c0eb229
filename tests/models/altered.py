"""Checkpoints with one property changed, made for a test from the bundled ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from gradalign.demo import model_path

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


LIKELY = 19
"""The bundled tokenizer's id of the digit 1."""


def bundled_copy(out: Path, name: str) -> Path:
    """Copy a bundled checkpoint, writable."""
    shutil.copytree(model_path(name), out)
    for file in out.rglob("*"):
        file.chmod(0o644)
    return out


def edit_json(file: Path, *, drop: tuple[str, ...] = (), **values: Any) -> None:
    """Change keys of a JSON file."""
    data = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: data[key] for key in data if key not in drop}))


def random_checkpoint(out: Path, config: type, *, seed: int = 0, **settings: Any) -> Path:
    """Save a random two-layer model with the bundled tokenizer."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 259,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
    }
    model = transformers.AutoModelForCausalLM.from_config(config(**sizes | settings))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(out)
    for file in TOKENIZER_FILES:
        shutil.copy(model_path("student") / file, out)
    return out


def edited_weights(out: Path, name: str, edit: Any) -> Path:
    """Copy a bundled checkpoint and let `edit` change its state dict, in place."""
    from safetensors.torch import load_file, save_file

    folder = bundled_copy(out, name)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def padded_copy(out: Path, name: str, rows: int, scale: float, like: int = LIKELY) -> Path:
    """Copy a bundled checkpoint with more rows: no token stands behind them.

    Args:
        out: the new folder.
        name: the bundled checkpoint.
        rows: how many more.
        scale: the new rows are a token's row times this, so that they have mass where it has.
        like: that token.
    """
    folder = bundled_copy(out, name)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    old = model.get_input_embeddings().weight.data
    model.resize_token_embeddings(len(old) + rows, mean_resizing=False)
    weight = model.get_input_embeddings().weight.data
    weight[len(old) :] = scale * old[like]
    model.save_pretrained(folder)
    return folder
