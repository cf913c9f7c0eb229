"""Teacher-forced scores of many continuations that branch off one sequence.

All continuations of a spine share its tokens up to their node. The spine is read once, and each
continuation starts from a copy of the keys and values up to its own node, so that only the
continuations' own tokens are computed.

Axes: _B continuations in a batch, _P columns of the copied beginning, _T new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gradalign.models.distributions import (
    LOGITS_BYTES,
    ForcedSequence,
    forced_log_probs,
    response_distribution,
)
from gradalign.models.forward import (
    TRIAL_FAILURES,
    last_logits,
    logit_gap,
    sharing_of,
    taken_arguments,
    tolerance,
    trial_length,
    trial_rows,
)
from gradalign.models.numbers import check_logits
from gradalign.models.sampling import SamplingSettings
from gradalign.runtime import model_pass

if TYPE_CHECKING:
    import torch

Float32s = npt.NDArray[np.float32]

CACHE_BYTES = 1 << 30
"""Largest copy of keys and values that one batch may make."""

_COLUMN_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Offshoot:
    """A continuation as it branches off.

    Attributes:
        start: how many tokens of the trunk come before it.
        token_ids: the forced candidate and what was drawn after it.
    """

    start: int
    token_ids: Sequence[int]


def offshoot_logprobs(
    model: torch.nn.Module,
    trunk_ids: Sequence[int],
    offshoots: Sequence[Offshoot],
    *,
    sampling: SamplingSettings | None = None,
    batch_tokens: int = 16384,
) -> list[Float32s]:
    """Return log-probabilities (natural log) of every token AFTER each forced candidate.

    Args:
        model: a causal language model of transformers.
        trunk_ids: the prompt and the spine.
        offshoots: the continuations, each starting inside the trunk.
        sampling: temperature and truncation to apply, None for the plain distribution.
        batch_tokens: new tokens per forward pass at most.

    Raises:
        NotNumbersError: a token has no distribution; its index is that of the offshoot.
    """
    scores: list[Float32s] = [np.zeros(0, dtype=np.float32)] * len(offshoots)
    order = [i for i in range(len(offshoots)) if len(offshoots[i].token_ids) > 1]
    if not order:
        return scores
    if not (_copies_columns(model) and copies_agree(model)):
        return _without_cache(model, trunk_ids, offshoots, sampling, batch_tokens, scores)
    trunk = list(trunk_ids[: max(offshoots[i].start for i in order)])
    layers = _read_trunk(model, trunk)
    order.sort(key=lambda i: (offshoots[i].start, len(offshoots[i].token_ids)))
    for batch in _batches(order, offshoots, layers, batch_tokens, _vocab_size(model)):
        logits_BTV = _read_offshoots(model, layers, [offshoots[i] for i in batch])
        for row, i in enumerate(batch):
            tokens = np.asarray(offshoots[i].token_ids[1:], dtype=np.int64)
            check_logits(logits_BTV[row, : len(tokens)], i)
            scores[i] = _picked(logits_BTV[row, : len(tokens)], tokens, sampling)
    return scores


class Trunk:
    """A sequence that is read once, and what comes after other tokens behind its beginnings.

    Args:
        model: a causal language model of transformers.
        token_ids: the sequence.
        keep: how many of its last positions' distributions are kept.

    Attributes:
        log_probs_LV: log-probabilities behind each of the last `keep` tokens, in float32.

    Raises:
        NotNumbersError: a position has no distribution.
    """

    def __init__(self, model: torch.nn.Module, token_ids: Sequence[int], keep: int) -> None:
        self._model, self._token_ids = model, list(token_ids)
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        if _copies_columns(model) and copies_agree(model):
            logits_LV, self._layers = _read_whole(model, self._token_ids, keep)
        else:
            logits_LV = last_logits(model, [self._token_ids], keep)[0]
        logits_LV = logits_LV.float()
        check_logits(logits_LV, 0)
        self.log_probs_LV = response_distribution(logits_LV, None)

    def behind(
        self, offshoots: Sequence[Offshoot], batch_tokens: int = 16384
    ) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Yield (index, log-probabilities behind the last token of that offshoot), in any order.

        Args:
            offshoots: each starts inside the trunk and has a token at least.
            batch_tokens: new tokens per forward pass at most.

        Raises:
            NotNumbersError: there is no distribution; its index is that of the offshoot.
        """
        model, layers = self._model, self._layers
        order = sorted(
            range(len(offshoots)),
            key=lambda i: (offshoots[i].start, len(offshoots[i].token_ids)),
        )
        if layers is None:
            for i in order:
                item = offshoots[i]
                row = [*self._token_ids[: item.start], *item.token_ids]
                yield i, _last(last_logits(model, [row], 1)[0, -1], i)
            return
        for batch in _batches(order, offshoots, layers, batch_tokens, _vocab_size(model)):
            logits_BTV = _read_offshoots(model, layers, [offshoots[i] for i in batch])
            for place, i in enumerate(batch):
                yield i, _last(logits_BTV[place, len(offshoots[i].token_ids) - 1], i)


def _last(logits_V: torch.Tensor, index: int) -> npt.NDArray[np.float64]:
    """Return log-probabilities of one position."""
    import torch

    check_logits(logits_V[None], index)
    return torch.log_softmax(logits_V.float(), dim=-1).double().cpu().numpy()


def _copies_columns(model: Any) -> bool:
    """Whether every layer keeps one key and one value per token, which can be copied."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    return kinds <= _COLUMN_LAYERS and not getattr(model, "_is_stateful", False)


_known_copies: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def copies_agree(model: torch.nn.Module) -> bool:
    """Find out by trial whether several tokens behind copied keys and values read as without.

    One try per loaded model: two continuations that leave a trunk early and at its end.

    Raises:
        ModelError: the model cannot be read at all; see `sharing_of`.
    """
    found = _known_copies.get(model)
    if found is None:
        sharing_of(model)
        found = _known_copies[model] = _try_copies(model)
    return found


def _try_copies(model: torch.nn.Module) -> bool:
    import torch

    length = trial_length(model)
    tail = min(5, length - 1)
    trunk, early, late = trial_rows(model, (length - tail, tail, tail - 1))
    offshoots = [Offshoot(min(3, len(trunk)), early), Offshoot(len(trunk), late)]
    try:
        logits_BTV = _read_offshoots(model, _read_trunk(model, trunk), offshoots)
    except torch.OutOfMemoryError:
        raise
    except TRIAL_FAILURES:
        return False
    for found_TV, item in zip(logits_BTV, offshoots, strict=True):
        row, count = [*trunk[: item.start], *item.token_ids], len(item.token_ids)
        truth_TV = last_logits(model, [row], count)[0]
        if not logit_gap(truth_TV.double(), found_TV[:count].double()) <= tolerance(model):
            return False
    return True


def _without_cache(
    model: torch.nn.Module,
    trunk_ids: Sequence[int],
    offshoots: Sequence[Offshoot],
    sampling: SamplingSettings | None,
    batch_tokens: int,
    scores: list[Float32s],
) -> list[Float32s]:
    """Read every continuation with its whole beginning: right for any model."""
    sequences = [
        ForcedSequence([*trunk_ids[: item.start], item.token_ids[0]], item.token_ids[1:])
        for item in offshoots
    ]
    for i, log_probs_TV in forced_log_probs(
        model, sequences, batch_tokens=batch_tokens, sampling=sampling
    ):
        tokens = np.asarray(offshoots[i].token_ids[1:], dtype=np.int64)
        scores[i] = _gather(log_probs_TV, tokens)
    return scores


def _read_trunk(
    model: torch.nn.Module, trunk: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each layer's keys and values of the trunk, [heads, columns, head size]."""
    return _read_whole(model, trunk, 1)[1]


def _read_whole(
    model: torch.nn.Module, trunk: list[int], keep: int
) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the logits of the last `keep` positions, and each layer's keys and values."""
    import torch
    from transformers.cache_utils import DynamicCache

    device = next(model.parameters()).device
    cache = DynamicCache()
    with torch.no_grad(), model_pass(device):
        logits: torch.Tensor = model(
            input_ids=torch.tensor([trunk], device=device),
            **taken_arguments(
                model, {"past_key_values": cache, "use_cache": True, "logits_to_keep": keep}
            ),
        ).logits
    return logits[0, -keep:], [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def _read_offshoots(
    model: torch.nn.Module,
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    batch: Sequence[Offshoot],
) -> torch.Tensor:
    """Return the logits behind each token of some continuations, [B, T, V]."""
    import torch
    from transformers.cache_utils import DynamicCache

    device = layers[0][0].device
    start_B = np.array([item.start for item in batch])
    length_B = np.array([len(item.token_ids) for item in batch])
    width, length = int(start_B.max()), int(length_B.max())
    ids_BT = np.zeros((len(batch), length), dtype=np.int64)
    for row, item in enumerate(batch):
        ids_BT[row, : len(item.token_ids)] = item.token_ids
    # Each row's beginning ends in the last copied column: distances within a row stay true.
    column_BP = np.arange(width)[None, :] - (width - start_B)[:, None]
    mask_BP = np.concatenate(
        [column_BP >= 0, np.arange(length)[None, :] < length_B[:, None]], axis=1
    )
    # Padding repeats a row's last position: none lies beyond what some sequence really has.
    column_BT = np.minimum(np.arange(length)[None, :], length_B[:, None] - 1)
    position_BT = start_B[:, None] + column_BT
    columns = torch.from_numpy(np.maximum(column_BP, 0)).to(device)
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(
            keys[:, columns].transpose(0, 1).contiguous(),
            values[:, columns].transpose(0, 1).contiguous(),
            number,
        )
    with torch.no_grad(), model_pass(device):
        logits: torch.Tensor = model(
            input_ids=torch.from_numpy(ids_BT).to(device),
            **taken_arguments(
                model,
                {
                    "attention_mask": torch.from_numpy(mask_BP.astype(np.int64)).to(device),
                    "position_ids": torch.from_numpy(position_BT).to(device),
                    "past_key_values": cache,
                    "use_cache": True,
                },
            ),
        ).logits
    return logits


def _picked(
    logits_TV: torch.Tensor, tokens: npt.NDArray[np.int64], sampling: SamplingSettings | None
) -> Float32s:
    return _gather(response_distribution(logits_TV.float(), sampling), tokens)


def _gather(log_probs_TV: torch.Tensor, tokens: npt.NDArray[np.int64]) -> Float32s:
    import torch

    index = torch.from_numpy(tokens).to(log_probs_TV.device)
    return log_probs_TV.gather(1, index[:, None])[:, 0].float().cpu().numpy()


def _vocab_size(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _batches(
    order: Sequence[int],
    offshoots: Sequence[Offshoot],
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    batch_tokens: int,
    vocab: int,
) -> Iterator[list[int]]:
    per_column = sum(
        part.shape[0] * part.shape[2] * part.element_size() for pair in layers for part in pair
    )
    batch: list[int] = []
    longest = 0
    for i in order:
        rows = len(batch) + 1
        longest = max(longest, len(offshoots[i].token_ids))
        width = offshoots[i].start
        if batch and (
            rows * longest > batch_tokens
            or rows * (width + longest) * per_column > CACHE_BYTES
            or rows * longest * vocab * 4 > LOGITS_BYTES
        ):
            yield batch
            batch, longest = [], len(offshoots[i].token_ids)
        batch.append(i)
    if batch:
        yield batch
