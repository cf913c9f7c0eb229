"""A model from its output layer on: logits of given hidden states, and their slopes.

The output layer gives W h (+ b), and some models go on from there: Gemma 2 caps, c tanh(z / c),
Cohere multiplies, Granite divides. A direction on the logits reaches W through the derivative of
that function, which autograd gives here, whatever the function is. It has to act on each
logit by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gradalign.errors import UsageError
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

Floats = npt.NDArray[np.float64]

# Hidden states whose logits are differentiated at once.
_ROWS = 64

# Relative error up to which the derivative of a weighted sum is the weighted derivative.
_TOLERANCE = 1e-3


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
def _fed(model: torch.nn.Module, hidden_ND: npt.NDArray[np.float32] | None) -> Iterator[None]:
    """Give a model's output layer these hidden states, if any, whatever it would read."""
    import torch

    if hidden_ND is None:
        yield
        return
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


def logit_slopes(
    model: torch.nn.Module,
    hidden_ND: npt.NDArray[np.float32],
    token_NC: npt.NDArray[np.int64],
) -> Floats:
    """Return the derivative of each token's logit by what the output layer gives for it, [N, C].

    With logits c tanh(z / c) that is 1 - tanh^2(z / c), with s z it is s, and 1 for most models. A
    bias of the output layer changes it only through z.

    Args:
        model: a causal language model of transformers.
        hidden_ND: what its output layer reads.
        token_NC: token ids; below 0 is padding, whose slope is 0.

    Raises:
        UsageError: logits that are not a function of the layer's output, one by one.
    """
    slope_NC = np.zeros(token_NC.shape)
    for begin in range(0, len(hidden_ND), _ROWS):
        some = slice(begin, begin + _ROWS)
        slope_NV = _slopes(model, hidden_ND[some])
        picked_NC = np.take_along_axis(slope_NV, np.maximum(token_NC[some], 0), axis=1)
        slope_NC[some] = np.where(token_NC[some] >= 0, picked_NC, 0.0)
    return slope_NC


def check_output_layer(model: torch.nn.Module) -> None:
    """Check that directions on the logits can be carried to the output layer's weight.

    Raises:
        UsageError: the model has no such layer, calls it other than once, or its logits are not
            a function of what the layer gives, one by one.
    """
    _slopes(model, None)


def _slopes(model: torch.nn.Module, hidden_ND: npt.NDArray[np.float32] | None) -> Floats:
    """Return the slopes of all logits, [N, V]; without hidden states, of two of its own."""
    import torch

    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    if layer is None:
        raise _unsuited(model, "has no output layer")
    given: list[torch.Tensor] = []

    def watch(_: torch.nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(output.detach().float().requires_grad_())  # a cap in bfloat16 has no slope
        return given[-1]

    device = next(model.parameters()).device
    ids_1T = torch.zeros((1, 2), dtype=torch.long, device=device)
    hook = layer.register_forward_hook(watch)
    try:
        with torch.enable_grad(), _fed(model, hidden_ND):
            logits = model(input_ids=ids_1T, use_cache=False).logits
            if len(given) != 1:
                raise _unsuited(model, f"calls its output layer {len(given)} times")
            if not logits.requires_grad:
                raise _unsuited(model, "has logits that do not follow its output layer")
            # Its own generator: no global one is touched.
            weight_V = torch.rand(logits.shape[-1], generator=torch.Generator().manual_seed(0)).to(
                logits
            )
            (slope_NV,) = torch.autograd.grad(logits.sum(), given[0], retain_graph=True)
            (mixed_NV,) = torch.autograd.grad((logits * weight_V).sum(), given[0])
    finally:
        hook.remove()
    slope_NV, mixed_NV = (part[0, :, : logits.shape[-1]] for part in (slope_NV, mixed_NV))
    gap_NV = (mixed_NV - slope_NV * weight_V).abs()
    if not bool((gap_NV <= _TOLERANCE * slope_NV.abs().amax(dim=1, keepdim=True)).all()):
        raise _unsuited(model, "computes each logit from the output layer's results for others too")
    return np.asarray(slope_NV.double().cpu().numpy())


def _unsuited(model: torch.nn.Module, what: str) -> UsageError:
    return UsageError(
        f"--alignment update: {type(model).__name__} {what}.", "Leave --alignment update out."
    )
