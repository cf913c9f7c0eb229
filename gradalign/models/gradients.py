"""Gradients of a causal language model along directions on its logits.

A direction m_u on the logits of position u asks for the change J_u^T m_u of the weights, where J_u
is the derivative of the position's logits by the weights. `LogitGradients` gives the sum of these
over positions, for any number of directions, from one forward pass per batch of responses. Axes:
_B rows, _K kept columns, _T tokens of a push, _V vocabulary, _W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradalign.models.distributions import ForcedSequence
from gradalign.models.forward import Sharing, sharing_of, taken_arguments
from gradalign.runtime import model_pass

if TYPE_CHECKING:
    import torch

LOGITS = 1 << 26
"""Logits of a batch at most."""


@dataclass(frozen=True)
class Push:
    """Where a direction pushes the logits that predict one token of a response.

    Attributes:
        response: number of the response.
        position: of the token in it.
        token_ids: tokens, [T].
        values: the direction on them, times the position's weight, [T]; 0 elsewhere.
    """

    response: int
    position: int
    token_ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class ForcedResponses:
    """Some responses to one prompt, in batches that fit one pass each.

    Args:
        model: a causal language model.
        sequences: the responses with their prompt.
        positions: per response, the positions whose logits are wanted.
        batch_tokens: padded tokens of a batch at most.

    Attributes:
        batches: numbers of the responses that share a pass; those without a position are in none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        sequences: Sequence[ForcedSequence],
        positions: Sequence[Sequence[int]],
        *,
        batch_tokens: int = 16384,
    ) -> None:
        self._model, self._sequences, self._positions = model, sequences, positions
        alone = sharing_of(model) is Sharing.NONE
        rows = [number for number, own in enumerate(positions) if len(own)]
        self.batches = list(_batches(rows, self._tokens, 0 if alone else batch_tokens, self._size))

    def logits(
        self, batch: Sequence[int], weights: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[tuple[int, int], int]]:
        """Return a batch's logits [B, K, V] and the column of each (row, position).

        Args:
            batch: numbers of the responses.
            weights: what takes the place of parameters, by name; None for the model's own.
        """
        import torch

        device = next(self._model.parameters()).device
        lengths = [self._tokens(row) for row in batch]
        ids_BW = np.zeros((len(batch), max(lengths)), dtype=np.int64)
        mask_BW = np.zeros(ids_BW.shape, dtype=np.int64)
        columns: dict[tuple[int, int], int] = {}
        for place, (row, length) in enumerate(zip(batch, lengths, strict=True)):
            sequence = self._sequences[row]
            ids_BW[place, :length] = [*sequence.prompt_ids, *sequence.response_ids]
            mask_BW[place, :length] = 1
            for position in self._positions[row]:
                # The logits of a column are of the token after it.
                columns[row, position] = len(sequence.prompt_ids) + position - 1
        keep = sorted(set(columns.values()))
        wanted = {
            "attention_mask": torch.from_numpy(mask_BW).to(device),
            "logits_to_keep": torch.tensor(keep, device=device),
            "use_cache": False,
        }
        arguments = {
            "input_ids": torch.from_numpy(ids_BW).to(device),
            **taken_arguments(self._model, wanted),
        }
        with model_pass(device):
            output: Any = (
                self._model(**arguments)
                if weights is None
                else torch.func.functional_call(self._model, dict(weights), (), arguments)
            )
            logits: torch.Tensor = output.logits
            if logits.shape[1] != len(keep):  # a model that does not know the argument
                logits = logits[:, keep]
        place_of = {column: place for place, column in enumerate(keep)}
        return logits, {key: place_of[column] for key, column in columns.items()}

    def _tokens(self, row: int) -> int:
        sequence = self._sequences[row]
        return len(sequence.prompt_ids) + len(sequence.response_ids)

    def _size(self, rows: Sequence[int]) -> int:
        """Return how many logits a batch of these rows would have."""
        prompts = {len(self._sequences[row].prompt_ids) for row in rows}
        if len(prompts) > 1:
            kept = sum(len(self._positions[row]) for row in rows)
        else:
            kept = len({position for row in rows for position in self._positions[row]})
        vocabulary = int(getattr(self._model.config, "vocab_size", 0) or 0)
        return len(rows) * kept * vocabulary


class LogitGradients:
    """Sums of J_u^T m_u over the positions of some responses to one prompt.

    A graph is kept where the responses fit one batch, and made anew for every direction otherwise.

    Args:
        responses: the responses.
        parameters: the space; gradients are of these.
    """

    def __init__(self, responses: ForcedResponses, parameters: Sequence[torch.Tensor]) -> None:
        self._responses, self._parameters = responses, list(parameters)
        self._kept: tuple[torch.Tensor, dict[tuple[int, int], int]] | None = None

    def along(self, pushes: Iterable[Push]) -> list[torch.Tensor]:
        """Return the sum for one direction, a tensor per parameter in its dtype."""
        import torch

        of_row: dict[int, list[Push]] = {}
        for push in pushes:
            of_row.setdefault(push.response, []).append(push)
        total: list[torch.Tensor | None] = [None] * len(self._parameters)
        for batch in self._responses.batches:
            if any(row in of_row for row in batch):
                gradients = self._of_batch(batch, of_row)
                total = [
                    new if old is None else old if new is None else old + new
                    for old, new in zip(total, gradients, strict=True)
                ]
        return [
            torch.zeros_like(parameter) if found is None else found
            for parameter, found in zip(self._parameters, total, strict=True)
        ]

    def _of_batch(
        self, batch: Sequence[int], of_row: dict[int, list[Push]]
    ) -> tuple[torch.Tensor | None, ...]:
        import torch

        single = len(self._responses.batches) == 1
        with torch.enable_grad():
            logits_BKV, columns = self._kept or self._responses.logits(batch)
        if single:
            self._kept = logits_BKV, columns
        push_BKV = torch.zeros_like(logits_BKV)
        for place, row in enumerate(batch):
            for push in of_row.get(row, []):
                tokens_T = torch.from_numpy(push.token_ids).to(push_BKV.device)
                values_T = torch.from_numpy(push.values).to(push_BKV)
                column = columns[row, push.position]
                push_BKV[place, column].index_add_(0, tokens_T, values_T)
        with model_pass(logits_BKV.device):
            found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
                logits_BKV, self._parameters, push_BKV, retain_graph=single, allow_unused=True
            )
        return found


def _batches(
    rows: Sequence[int], tokens_of: Any, batch_tokens: int, size_of: Any
) -> Iterable[list[int]]:
    """Put rows together as long as a batch stays small enough."""
    batch: list[int] = []
    for row in rows:
        longer = [*batch, row]
        padded = len(longer) * max(map(tokens_of, longer))
        if batch and (padded > batch_tokens or size_of(longer) > LOGITS):
            yield batch
            longer = [row]
        batch = longer
    if batch:
        yield batch
