"""How a causal language model's logits change along a direction of its weights.

For a direction d of the weights, J_u d is what a small step along d does to the logits of position
u. Its inner product with a direction m_u on these logits is that of d and J_u^T m_u: one derivative
gives the numerators of all directions m. Axes: _B rows, _K kept columns, _V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gradalign.errors import ModelError
from gradalign.models.gradients import ForcedResponses

if TYPE_CHECKING:
    import torch

Way = Literal["differences", "forward"]

MOVE = 3e-3
"""By how much a difference moves the logits, root mean square; see `step_along`. Many
architectures compute norms in float32 whatever they are in, so it is one for all."""


@dataclass(frozen=True, eq=False)
class BatchDerivative:
    """A batch's logits and their derivative.

    Attributes:
        columns: which column of a row stands for a (response, position).
        places: which row stands for a response.
        logits: [B, K, V]; minus infinity at tokens that the model does not draw.
        derivative: [B, K, V]; 0 there.
    """

    columns: Mapping[tuple[int, int], int]
    places: Mapping[int, int]
    logits: torch.Tensor
    derivative: torch.Tensor


def derivatives(
    model: torch.nn.Module,
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    responses: ForcedResponses,
    *,
    way: Way = "differences",
    step: float = 0.0,
) -> Iterator[BatchDerivative]:
    """Yield the derivative of every batch's logits along a direction of the weights.

    Args:
        model: a causal language model.
        parameters: the space.
        direction: a tensor per parameter.
        responses: what the model reads.
        way: `differences`: two passes at weights moved by `step` times the direction, either way,
            which any model and attention kernel can do; `forward`: one pass of forward-mode
            differentiation, exact, in plain attention.
        step: of differences, from `step_along`.

    Raises:
        ModelError: the model has an operation without a forward-mode derivative.
    """
    import torch

    names = _names(model, parameters)
    for batch in responses.batches:
        with torch.no_grad():
            if way == "forward":
                logits, slope, columns = _forward(names, parameters, direction, responses, batch)
            elif step > 0:
                moved = []
                for signed in (step, -step):
                    weights = _moved(names, parameters, direction, signed)
                    found, columns = responses.logits(batch, weights)
                    moved.append(found)
                logits = 0.5 * (moved[0] + moved[1])
                slope = (moved[0] - moved[1]) / (2.0 * step)
            else:
                logits, columns = responses.logits(batch)
                slope = torch.zeros_like(logits)
        places = {row: place for place, row in enumerate(batch)}
        # Minus infinity less minus infinity is no number.
        yield BatchDerivative(columns, places, logits, slope.nan_to_num(nan=0.0))


def step_along(
    model: torch.nn.Module,
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    responses: ForcedResponses,
) -> float:
    """Return how far to go along a direction for differences of a good size.

    The logits of the first batch are to move against each other by `MOVE`, root mean square: well
    above their rounding, and little enough that the move is linear. 0 for a direction that moves
    nothing.

    Args:
        model: a causal language model.
        parameters: the space.
        direction: a tensor per parameter.
        responses: what the model reads.
    """
    import torch

    lengths = [
        math.sqrt(sum(float(part.detach().double().square().sum()) for part in parts))
        for parts in (parameters, direction)
    ]
    if not responses.batches or lengths[1] == 0.0:
        return 0.0
    # LoRA's matrices are 0 at first: they have no size of their own.
    step = 1e-4 * (lengths[0] or 1.0) / lengths[1]
    names = _names(model, parameters)
    with torch.no_grad():
        plus, minus = (
            responses.logits(responses.batches[0], _moved(names, parameters, direction, signed))[
                0
            ].double()
            for signed in (step, -step)
        )
    moves = (plus - minus) / 2.0
    moves -= moves.nanmean(dim=-1, keepdim=True)  # what moves all logits alike moves nothing
    size = float(moves.nan_to_num(nan=0.0).square().mean().sqrt())
    return step * MOVE / size if size > 0 else 0.0


def _names(model: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> list[str]:
    """Return what the model calls its parameters."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for parameter in parameters]


def _moved(
    names: Sequence[str],
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    step: float,
) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach() + step * part
        for name, parameter, part in zip(names, parameters, direction, strict=True)
    }


def _forward(
    names: Sequence[str],
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    responses: ForcedResponses,
    batch: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, Mapping[tuple[int, int], int]]:
    import torch
    from torch.autograd import forward_ad as untyped
    from torch.nn.attention import SDPBackend, sdpa_kernel

    forward_ad: Any = untyped
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        weights = {
            name: forward_ad.make_dual(parameter.detach(), part.to(parameter))
            for name, parameter, part in zip(names, parameters, direction, strict=True)
        }
        try:
            dual, columns = responses.logits(batch, weights)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise ModelError(
                f"the student has no forward-mode derivative: {str(error).splitlines()[0]}",
                "Use --weights-derivative differences.",
            ) from error
        logits, slope = forward_ad.unpack_dual(dual)
        if slope is None:
            slope = torch.zeros_like(logits)
        return logits.clone(), slope.clone(), columns
