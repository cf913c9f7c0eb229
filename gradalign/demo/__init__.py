"""The bundled demo: four tiny models and the addition task that they were trained on."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from gradalign.errors import ModelError, UnknownNameError

__all__ = ["MODEL_NAMES", "model_path"]

MODEL_NAMES = ("student", "strong", "weak", "middle")
"""The bundled models; `demo:NAME` on the command line."""


def model_path(name: str) -> Path:
    """Return the folder of a bundled model, ready for `from_pretrained`.

    Raises:
        UnknownNameError: no such model; the message lists the ones there are.
        ModelError: the installation lacks the weights.
    """
    if name not in MODEL_NAMES:
        raise UnknownNameError(f"unknown demo model {name!r}.", f"Known: {', '.join(MODEL_NAMES)}.")
    folder = Path(str(files("gradalign.demo").joinpath("models", name)))
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"the weights of demo:{name} are missing from this installation ({folder}).",
            "Reinstall gradalign, or run python -m gradalign.demo.train --out MODELS and pass "
            f"MODELS/{name}.",
        )
    return folder
