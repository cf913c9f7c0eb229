"""Teacher-forced passes: the exact next-token distributions along given responses.

Axes: _L positions of a response, _V vocabulary, _W top tokens, _N chosen positions. The row of
position t is the distribution that the response's token t was, or could have been, drawn from.
Nothing of size [.., V] outlives the step of the iterator that made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradalign.errors import ContextOverflowError, EngineError
from gradalign.models.checkpoints.loading import context_length
from gradalign.models.forward import Sharing, last_logits, output_layer_inputs, sharing_of
from gradalign.models.frequencies import length_note
from gradalign.models.numbers import check_logits
from gradalign.models.sampling import SamplingSettings

if TYPE_CHECKING:
    import torch

TokenIds = Sequence[int] | npt.NDArray[np.int32]

LOGITS_BYTES = 2 << 30
"""Largest block of float32 logits that one forward pass may make."""


@dataclass(frozen=True)
class ForcedSequence:
    """A prompt and the response whose tokens are forced after it."""

    prompt_ids: TokenIds
    response_ids: TokenIds


@dataclass(frozen=True)
class PositionView:
    """What is kept of every position of a response.

    Attributes:
        logprob_L: log-probability of the response's own token, natural log.
        entropy_L: entropy of the distribution in nats.
        top_ids_LW, top_logprobs_LW: the most probable tokens, in falling order.
    """

    logprob_L: npt.NDArray[np.float32]
    entropy_L: npt.NDArray[np.float32]
    top_ids_LW: npt.NDArray[np.int32]
    top_logprobs_LW: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SupportView:
    """A distribution at chosen positions, on given tokens and one tail.

    Attributes:
        logprobs: per position, the log-probabilities of the asked tokens.
        log_tail_N: log of the mass of all other tokens; -inf if there are none.
        tail_powers: per temperature T, log of the sum over the other tokens of p^(1/T).
    """

    logprobs: list[npt.NDArray[np.float32]]
    log_tail_N: npt.NDArray[np.float64]
    tail_powers: dict[float, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class ForcedPass:
    """What one pass gave along a response.

    Attributes:
        logits_LV: in float32.
        hidden_LD: what the output layer read there, in float32; None where it was not asked for.
    """

    logits_LV: torch.Tensor
    hidden_LD: torch.Tensor | None


def forced_log_probs(
    model: torch.nn.Module,
    sequences: Sequence[ForcedSequence],
    *,
    batch_tokens: int = 16384,
    sampling: SamplingSettings | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, log-probabilities [L, V] in float32) for every sequence, longest first.

    Args:
        model: as for `forced_passes`; so are the errors.
        sequences: as for `forced_passes`.
        batch_tokens: as for `forced_passes`.
        sampling: temperature and truncation to apply, None for the plain distribution.
    """
    for i, read in forced_passes(model, sequences, batch_tokens=batch_tokens):
        yield i, response_distribution(read.logits_LV, sampling)


def forced_passes(
    model: torch.nn.Module,
    sequences: Sequence[ForcedSequence],
    *,
    batch_tokens: int = 16384,
    with_hidden: bool = False,
) -> Iterator[tuple[int, ForcedPass]]:
    """Read every sequence once; yield (index, what came of it), longest first.

    Args:
        model: a causal language model.
        sequences: prompts with the responses to force; empty responses are left out.
        batch_tokens: padded tokens per forward pass at most (one sequence always runs).
        with_hidden: keep what the output layer reads; only for a model of which
            `output_layer.repeats_logits` holds.

    Raises:
        ContextOverflowError: a sequence is longer than the model's context.
        EngineError: a token id that the model does not have.
        ModelError: the model is not causal, or cannot be read at all.
        NotNumbersError: a position has no distribution.
    """
    config: Any = model.config
    vocab = int(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
    _check(sequences, context_length(config), vocab, length_note(config))
    order = sorted(
        (i for i, sequence in enumerate(sequences) if len(sequence.response_ids)),
        key=lambda i: -_length(sequences[i]),
    )
    sharing = sharing_of(model) if order else Sharing.NONE
    for batch in _batches(order, sequences, batch_tokens, vocab, sharing):
        with output_layer_inputs(model, on=with_hidden) as caught:
            logits_BPV = _forward(model, [sequences[i] for i in batch])
        for row, i in enumerate(batch):
            at = slice(-len(sequences[i].response_ids) - 1, -1)
            logits_LV = logits_BPV[row, at].float()
            check_logits(logits_LV, i)
            hidden_LD = None
            if with_hidden:
                hidden_LD = caught[-1][row, at].float()
                check_logits(hidden_LD, i)  # a cap makes numbers of infinite ones
            yield i, ForcedPass(logits_LV, hidden_LD)


def response_distribution(
    logits_LV: torch.Tensor, sampling: SamplingSettings | None
) -> torch.Tensor:
    """Return log-probabilities [L, V]: the very distribution that tokens are drawn from."""
    import torch

    from gradalign.models.sampling import probabilities

    if sampling is None or sampling.is_plain:
        return torch.log_softmax(logits_LV, dim=-1)
    return probabilities(logits_LV, sampling).log().float()


def _forward(model: torch.nn.Module, batch: Sequence[ForcedSequence]) -> torch.Tensor:
    """Run one batch; return the logits of the last positions only, [B, K, V]."""
    keep = max(len(sequence.response_ids) for sequence in batch) + 1
    return last_logits(model, [[*item.prompt_ids, *item.response_ids] for item in batch], keep)


def position_view(log_probs_LV: torch.Tensor, response_ids: TokenIds, num_top: int) -> PositionView:
    """Reduce one response's distributions to what is kept of every position."""
    import torch

    tokens_L = torch.as_tensor(np.asarray(response_ids, dtype=np.int64), device=log_probs_LV.device)
    top = log_probs_LV.topk(min(num_top, log_probs_LV.shape[1]), dim=-1)
    return PositionView(
        logprob_L=_numpy(log_probs_LV.gather(1, tokens_L[:, None])[:, 0]),
        entropy_L=_numpy(torch.special.entr(log_probs_LV.exp()).sum(-1)),
        top_ids_LW=top.indices.cpu().numpy().astype(np.int32),
        top_logprobs_LW=_numpy(top.values),
    )


def top_tokens(
    log_probs_LV: torch.Tensor, positions: npt.NDArray[np.int64], num_top: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return ids and log-probabilities [N, K] of the top tokens at chosen positions."""
    import torch

    rows = log_probs_LV[torch.as_tensor(positions, device=log_probs_LV.device)]
    top = rows.topk(min(num_top, rows.shape[1]), dim=-1)
    return top.indices.cpu().numpy().astype(np.int32), _numpy(top.values)


def at_tokens(
    log_probs_LV: torch.Tensor,
    positions: npt.NDArray[np.int64],
    token_ids: Sequence[npt.NDArray[np.int32]],
    temperatures: Sequence[float] = (),
) -> SupportView:
    """Read the distributions at chosen positions on given tokens, and sum up the rest.

    Args:
        log_probs_LV: the distributions of one response.
        positions: the chosen positions, [N].
        token_ids: per chosen position the distinct tokens to read; one that this model's
            (perhaps less padded) vocabulary lacks has probability 0.
        temperatures: those for which the tail is summed as p^(1/T) too.
    """
    import torch

    device = log_probs_LV.device
    rows_NV = log_probs_LV[torch.as_tensor(positions, device=device)]
    width = max((len(ids) for ids in token_ids), default=0)
    padded_NS = np.stack(
        [np.pad(ids, (0, width - len(ids)), mode="edge") for ids in token_ids]
    ).astype(np.int64)
    vocab = rows_NV.shape[1]
    ids_NS = torch.from_numpy(np.minimum(padded_NS, vocab)).to(device)
    rows_NV = torch.nn.functional.pad(rows_NV, (0, 1), value=-torch.inf)  # for absent tokens
    asked_NS = _numpy(rows_NV.gather(1, ids_NS))
    rows_NV.scatter_(1, ids_NS, -torch.inf)  # padding repeats an asked id: nothing is lost
    return SupportView(
        logprobs=[asked_NS[n, : len(ids)] for n, ids in enumerate(token_ids)],
        log_tail_N=_log_sum(rows_NV),
        tail_powers={t: _log_sum(rows_NV / t) for t in temperatures},
    )


def _log_sum(rows_NV: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the log of each row's sum of exponentials; only the sum is in float64."""
    import torch

    top_N = rows_NV.amax(dim=-1)
    shift_N = top_N.where(top_N.isfinite(), 0.0)  # a row of zero mass has none
    sum_N = (rows_NV - shift_N[:, None]).exp().sum(dim=-1, dtype=torch.float64)
    return np.asarray((sum_N.log() + shift_N.double()).cpu().numpy())


def _numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def _length(sequence: ForcedSequence) -> int:
    return len(sequence.prompt_ids) + len(sequence.response_ids)


def _check(
    sequences: Sequence[ForcedSequence], limit: int | None, vocab: int, note: str = ""
) -> None:
    for index, sequence in enumerate(sequences):
        if limit is not None and _length(sequence) > limit:
            raise ContextOverflowError(
                f"sequence {index}: a prompt of {len(sequence.prompt_ids)} tokens and a response "
                f"of {len(sequence.response_ids)} exceed the model's context of {limit}{note}.",
                "Use a shorter context for this teacher or a smaller --max-tokens.",
            )
        for part in (sequence.prompt_ids, sequence.response_ids):
            if len(part) and (max(part) >= vocab or min(part) < 0):
                raise EngineError(
                    f"sequence {index} holds token id {max(part)}, but the model has {vocab}.",
                    "The teacher cannot score this student's tokens; choose one that shares its "
                    "vocabulary.",
                )


def _batches(
    order: Sequence[int],
    sequences: Sequence[ForcedSequence],
    batch_tokens: int,
    vocab: int,
    sharing: Sharing,
) -> Iterator[list[int]]:
    batch: list[int] = []
    width = keep = 0
    for i in order:
        new_width = max(width, _length(sequences[i]))
        new_keep = max(keep, len(sequences[i].response_ids) + 1)
        rows = len(batch) + 1
        too_many = rows * new_width > batch_tokens or rows * new_keep * vocab * 4 > LOGITS_BYTES
        alone = sharing is Sharing.NONE or (
            sharing is Sharing.EQUAL and _length(sequences[i]) != width
        )
        if batch and (too_many or alone):
            yield batch
            batch, new_width, new_keep = [], _length(sequences[i]), len(sequences[i].response_ids)
        batch.append(i)
        width, keep = new_width, new_keep
    if batch:
        yield batch
