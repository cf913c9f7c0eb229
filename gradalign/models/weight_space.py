"""Where a training moves a model: all weights, some of them, or LoRA matrices.

A *space* is a list of parameters that gradients are taken of. Gradients of different questions
are compared by their inner products alone, so each is kept as a *sketch*: every entry, with a
random sign, is added to one of `size` buckets (a count sketch; Charikar, Chen and Farach-Colton,
"Finding frequent items in data streams", 2002). Inner products of sketches are unbiased, with a
standard error of at most |x| |y| sqrt(2 / size).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradalign.errors import UsageError

if TYPE_CHECKING:
    import torch

SKETCH = 8191
"""Buckets: a prime, so that entries of one column of a matrix do not meet in a bucket."""

LORA = "lora_up"
"""What a layer's matrix B is called."""


@dataclass(frozen=True)
class SpaceSpec:
    """A space by its name.

    Attributes:
        kind: all, layers or lora.
        pattern: of `layers`, what names of parameters match, with * and ?.
        rank: of `lora`.
    """

    kind: str
    pattern: str = "*"
    rank: int = 0


def parse_space(text: str) -> SpaceSpec:
    """Read `all`, `layers=PATTERN` or `lora:rank=R`.

    Raises:
        UsageError: it is none of these.
    """
    if text == "all":
        return SpaceSpec("all")
    if text.startswith("layers=") and text.removeprefix("layers="):
        return SpaceSpec("layers", pattern=text.removeprefix("layers="))
    name, _, rank = text.partition(":rank=")
    if name == "lora" and rank.isdecimal() and int(rank) > 0:
        return SpaceSpec("lora", rank=int(rank))
    raise UsageError(
        f"--weights-space {text!r} is no space of weights.",
        "Write all, layers=PATTERN such as layers=lm_head*, or lora:rank=32.",
    )


def parameter_shapes(
    settings: Any, *, trust_remote_code: bool
) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of a model's parameters by name, without memory for them.

    Args:
        settings: the model's configuration.
        trust_remote_code: whether to run code that comes with it.

    Returns:
        None where the model cannot be built.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, trust_remote_code=trust_remote_code)
    except Exception:  # whatever a checkpoint's own code raises: a plan must not stop a run
        return None
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@contextmanager
def weight_space(model: torch.nn.Module, spec: SpaceSpec) -> Iterator[list[torch.nn.Parameter]]:
    """Let gradients be taken in a space; the model is as it was afterwards.

    LoRA adds B A x to every linear layer but the output layer, with a random A of PEFT's default
    distribution and B = 0: the function stays what it is, and the gradient of B is the first step
    of a LoRA training (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021).

    Args:
        model: a causal language model of transformers.
        spec: the space.

    Yields:
        Its parameters.

    Raises:
        UsageError: the model has no weights that the space names.
    """
    with ExitStack() as stack:
        if spec.kind == "lora":
            parameters = stack.enter_context(_lora(model, spec.rank))
        else:
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if fnmatch.fnmatchcase(name, spec.pattern) and parameter.is_floating_point()
            ]
        if not parameters:
            names = [name for name, _ in model.named_parameters()]
            raise UsageError(
                f"--weights-space: {type(model).__name__} has no weights of that name.",
                f"It has {', '.join(names[:3])}, ... ({len(names)} in all).",
            )
        before = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield parameters
        finally:
            for parameter, required in zip(parameters, before, strict=True):
                parameter.requires_grad_(required)


@contextmanager
def _lora(model: torch.nn.Module, rank: int) -> Iterator[list[torch.nn.Parameter]]:
    import torch

    output = model.get_output_embeddings()  # type: ignore[operator]
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not output
    ]
    generator = torch.Generator().manual_seed(0)
    added, hooks = [], []
    for layer in layers:
        weight = layer.weight
        bound = 1.0 / math.sqrt(layer.in_features)
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        up = torch.nn.Parameter(torch.zeros(layer.out_features, rank).to(weight))
        # By name, so that another tensor can take its place for a pass.
        layer.register_parameter(LORA, up)
        added.append(up)
        hooks.append(layer.register_forward_hook(_adding(down.to(weight))))
    try:
        yield added
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            delattr(layer, LORA)


def _adding(down: torch.Tensor) -> Any:
    """Return a forward hook that adds B A x to a layer's output."""
    import torch.nn.functional as functional

    def hook(layer: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        up = getattr(layer, LORA)
        return output + functional.linear(functional.linear(inputs[0], down), up)

    return hook


class Sketch:
    """Turns gradients into vectors whose inner products are those of the gradients.

    Args:
        parameters: what the gradients are of.
        size: buckets, `SKETCH` by default; a space of fewer weights is kept as it is.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], size: int | None = None) -> None:
        import torch

        size = size or SKETCH
        self.num_weights = sum(parameter.numel() for parameter in parameters)
        self.exact = self.num_weights <= size
        self.width = self.num_weights if self.exact else size
        self._signs: list[torch.Tensor] = []
        if not self.exact:
            generator = torch.Generator().manual_seed(1)
            self._signs = [
                (
                    torch.randint(0, 2, (parameter.numel(),), generator=generator, dtype=torch.int8)
                    * 2
                    - 1
                ).to(parameter.device)
                for parameter in parameters
            ]

    def of(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sketch one gradient, a tensor per parameter, into [width] in float32."""
        import torch

        if self.exact:
            return torch.cat([gradient.flatten().float() for gradient in gradients])
        out = torch.zeros(self.width, device=gradients[0].device)
        begin = 0
        for gradient, sign in zip(gradients, self._signs, strict=True):
            entries = gradient.flatten().float() * sign
            before = begin % self.width
            after = -(before + len(entries)) % self.width
            out += torch.nn.functional.pad(entries, (before, after)).view(-1, self.width).sum(0)
            begin += len(entries)
        return out
