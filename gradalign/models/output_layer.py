"""A model from its output layer on: logits of given hidden states.

The output layer gives W h (+ b), and some models go on from there: Gemma 2 caps, c tanh(z / c),
Cohere multiplies, Granite divides. Whatever it is, the model does it here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gradalign.models.forward import (
    TRIAL_FAILURES,
    last_logits,
    logit_gap,
    output_layer_inputs,
    sharing_of,
    taken_arguments,
    tolerance,
    trial_length,
    trial_rows,
)
from gradalign.runtime import model_pass

if TYPE_CHECKING:
    import torch


def logits_of(model: torch.nn.Module, hidden_ND: npt.NDArray[np.float32]) -> torch.Tensor:
    """Return the logits of what an output layer read before, float32 [N, V].

    The model runs on one token, and its output layer is given the hidden states instead: whatever
    comes after the layer, and a cut to some tokens, is done to them as in a whole pass. They
    differ from that pass by the rounding of a matrix product of another shape.

    Args:
        model: a causal language model of which `repeats_logits` holds.
        hidden_ND: what its output layer reads, at least one row.
    """
    import torch

    device = next(model.parameters()).device
    with _fed(model, hidden_ND), torch.no_grad(), model_pass(device):
        logits: torch.Tensor = model(
            input_ids=torch.zeros((1, 1), dtype=torch.long, device=device),
            **taken_arguments(model, {"use_cache": False}),
        ).logits
    return logits[0].float()


@contextmanager
def _fed(model: torch.nn.Module, hidden_ND: npt.NDArray[np.float32]) -> Iterator[None]:
    """Give a model's output layer these hidden states, whatever it would read."""
    import torch

    layer: Any = model.get_output_embeddings()  # type: ignore[operator]

    def feed(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (torch.from_numpy(hidden_ND)[None].to(inputs[0]),)

    hook = layer.register_forward_pre_hook(feed)
    try:
        yield
    finally:
        hook.remove()


_known_repeats: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def repeats_logits(model: torch.nn.Module) -> bool:
    """Find out by trial whether logits can be had again from what the output layer read.

    Not where a model has no such layer, calls it more than once, or goes on with more than what it
    gives. One try per loaded model.

    Raises:
        ModelError: the model cannot be read at all; see `forward.sharing_of`.
    """
    found = _known_repeats.get(model)
    if found is None:
        sharing_of(model)
        found = _known_repeats[model] = _try_repeating(model)
    return found


def _try_repeating(model: torch.nn.Module) -> bool:
    import torch

    (row,) = trial_rows(model, [trial_length(model)])
    try:
        with output_layer_inputs(model) as caught:
            truth_TV = last_logits(model, [row], len(row))[0]
        if len(caught) != 1 or caught[0].shape[:2] != (1, len(row)):
            return False
        found_TV = logits_of(model, caught[0][0].float().cpu().numpy())
        return logit_gap(truth_TV.double(), found_TV.double()) <= tolerance(model)
    except torch.OutOfMemoryError:
        raise
    except TRIAL_FAILURES:
        return False
