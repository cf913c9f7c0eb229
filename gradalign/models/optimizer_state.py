"""What AdamW makes of a gradient: from a fresh start, or with the second moments of a checkpoint.

AdamW moves every weight by its mean gradient over the root of its mean squared gradient. In the
first step both are of one gradient, and what is left is the sign. Later the second moments v, the
optimizer's `exp_avg_sq`, are of many steps: the step is then the gradient over sqrt(v) + eps, times
a factor. What momentum and weight decay add is the same under every loss, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradalign.errors import UsageError

if TYPE_CHECKING:
    import torch

FIRST = "first"
"""How the first step is asked for."""

EPS = 1e-8
"""AdamW's own, where a file does not say."""

MOMENT = "exp_avg_sq"
_FILES = ("optimizer.pt", "optimizer.bin", "optimizer.safetensors")


@dataclass(frozen=True, eq=False)
class AdamwStep:
    """Turns a gradient into a step of length 1.

    Attributes:
        scales: what each entry is divided by, a tensor per parameter; None for its own size.
    """

    scales: Sequence[torch.Tensor] | None

    def of(self, gradient: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the step along a gradient, in float32; 0 for one without length."""
        parts = [part.float() for part in gradient]
        if self.scales is None:
            parts = [part.sign() for part in parts]
        else:
            parts = [part / scale for part, scale in zip(parts, self.scales, strict=True)]
        length2 = sum(float(part.double().square().sum()) for part in parts)
        return [part / length2**0.5 for part in parts] if length2 > 0 else parts


def adamw_step(
    source: str, model: torch.nn.Module, parameters: Sequence[torch.Tensor]
) -> AdamwStep:
    """Return what AdamW makes of gradients in a space.

    Args:
        source: `FIRST`, or a file of `read_moments`.
        model: the student.
        parameters: the space.

    Raises:
        UsageError: see `read_moments`; or the space has weights that no moments are of.
    """
    if source == FIRST:
        return AdamwStep(None)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    moments, eps = read_moments(source, shapes)
    names = [name_of[id(parameter)] for parameter in parameters]
    if lost := [name for name in names if name not in moments]:
        raise UsageError(
            f"--weights-adamw {source}: it has no {MOMENT} of {lost[0]} ({len(lost)} in all).",
            "Choose a --weights-space that was trained, or --weights-adamw first.",
        )
    scales = [
        moments[name].to(parameter.device).float().sqrt() + eps
        for name, parameter in zip(names, parameters, strict=True)
    ]
    return AdamwStep(scales)


def read_moments(
    source: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, torch.Tensor], float]:
    """Read the second moments of an optimizer, by the names of parameters, and its eps.

    A torch file is the optimizer's state dict, read without unpickling code. Where it numbers
    parameters, they are in order of the model, or, in two groups as of the Hugging Face trainer,
    matrices before vectors. A safetensors file has `NAME` or `NAME.exp_avg_sq`.

    Args:
        source: the file, or a checkpoint's folder with one.
        shapes: of the model's parameters, by name, in order.

    Raises:
        UsageError: no such file, not such a file, or of another model.
    """
    path = _file(source)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored, eps = load_file(path), EPS
            found = {name.removesuffix(f".{MOMENT}"): value for name, value in stored.items()}
        else:
            import torch

            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found, eps = _of_state(state, shapes)
    except UsageError:
        raise
    except Exception as error:  # whatever torch or safetensors raise of a file that is none
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"--weights-adamw {source} cannot be read: {said}",
            "Give an optimizer's state dict as torch.save writes it, or a safetensors file.",
        ) from error
    found = {name: value for name, value in found.items() if name in shapes}
    odd = [name for name, value in found.items() if tuple(value.shape) != shapes[name]]
    if odd or not found:
        what = f"{odd[0]} has another shape" if odd else "no name is a parameter's"
        raise UsageError(
            f"--weights-adamw {source} is not of the student's weights: {what}.",
            "Give the optimizer of the checkpoint that --student is.",
        )
    return found, eps


def _file(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        path = next((path / name for name in _FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise UsageError(
            f"--weights-adamw {source}: there is no such file, nor {_FILES[0]} in such a folder.",
            f"Write {FIRST}, or give an optimizer's file.",
        )
    return path


def _of_state(
    state: Any, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, torch.Tensor], float]:
    """Return the moments of a state dict by name, without the bias of their start; and eps."""
    groups = state["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    if not names:
        matrices = [name for name, shape in shapes.items() if len(shape) > 1]
        vectors = [name for name, shape in shapes.items() if len(shape) <= 1]
        names = list(shapes) if len(groups) == 1 else matrices + vectors
    if isinstance(keys[0], str):  # as gathered from shards
        names = keys
    if len(names) != len(keys):
        raise UsageError(
            f"--weights-adamw: the optimizer has {len(keys)} parameters, the student {len(names)}.",
            "Give the optimizer of the checkpoint that --student is.",
        )
    found = {}
    for group in groups:
        beta = group["betas"][1]
        for key in group["params"]:
            own = state["state"].get(key, {})
            if MOMENT in own:
                bias = 1.0 - beta ** float(own.get("step", float("inf")))
                found[names[keys.index(key)]] = own[MOMENT] / bias
    return found, float(groups[0].get("eps", EPS))
