"""Memory of a backward pass: what a model keeps per token, and keeping less.

With checkpoints at the layers a pass keeps what goes into each layer only, and computes the inside
once more on the way back (Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear Memory
Cost", 2016): the same numbers, for one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from gradalign.models.forward import taken_arguments, trial_rows

if TYPE_CHECKING:
    import torch

TRIAL = 32
"""Tokens of the pass that is measured."""


def kept_bytes_per_token(model: torch.nn.Module) -> float:
    """Return what a pass keeps for the way back, by a short one; weights aside.

    Args:
        model: a causal language model whose weights take gradients.
    """
    import torch

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    (row,) = trial_rows(model, [TRIAL])
    ids = torch.tensor([row], device=next(model.parameters()).device)
    plain = taken_arguments(model, {"use_cache": False})
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        logits = model(input_ids=ids, **plain).logits  # the graph lives until it is counted
        total = sum(kept.values())
        del logits
    return total / TRIAL


@contextmanager
def checkpoints(model: torch.nn.Module, *, on: bool = True) -> Iterator[None]:
    """Keep only what goes into each layer while the block lasts.

    Args:
        model: a causal language model of transformers.
        on: whether to.
    """
    layers = _layers(model) if on else []
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(model: torch.nn.Module) -> list[Any]:
    """Return the modules of the longest list that a model has."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch
    from torch.utils.checkpoint import checkpoint

    @wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return wrapped
