"""Log-probabilities of given sequences by teacher forcing.

Axes: _B sequences of one pass, _T tokens, _V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import DynamicCache

from gradalign.engines.transformers.model_call import ModelCall
from gradalign.models.continuations import copies_agree
from gradalign.models.forward import Sharing, sharing_of
from gradalign.models.numbers import check_logits

# Logits of one pass are kept below this many numbers.
_LOGITS = 1 << 27


def sequence_logprobs(
    call: ModelCall, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[npt.NDArray[np.float32]]:
    """Return log p(token | everything before it) for the tokens from `start` on.

    Sequences of similar length share a pass, padded on the right, where a causal model's real
    tokens do not see it; logits before the earliest start are not computed.

    Raises:
        NotNumbersError: a token has no distribution; its index is that of the sequence.
    """
    found: list[npt.NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), starts[i]))
    begin = 0
    sharing = sharing_of(call.model) if len(order) > 1 else Sharing.NONE
    while begin < len(order):
        end = begin + 1
        earliest = starts[order[begin]]
        while end < len(order) and sharing is not Sharing.NONE:
            if sharing is Sharing.EQUAL and len(sequences[order[end]]) != len(
                sequences[order[begin]]
            ):
                break
            earliest = min(earliest, starts[order[end]])
            columns = len(sequences[order[end]]) - earliest + 1
            if (end + 1 - begin) * columns * call.vocab_size > _LOGITS:
                break
            end += 1
        some = order[begin:end]
        begin = end
        if len(some) == 1:
            scored = [_one_sequence(call, sequences[some[0]], starts[some[0]], some[0])]
        else:
            scored = _one_pass(call, [sequences[i] for i in some], [starts[i] for i in some], some)
        for i, log_p_T in zip(some, scored, strict=True):
            found[i] = log_p_T
    return found


def _one_pass(
    call: ModelCall,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    numbers: Sequence[int],
) -> list[npt.NDArray[np.float32]]:
    length_B = np.array([len(ids) for ids in sequences])
    widest = int(length_B.max())
    token_BT = np.zeros((len(sequences), widest), dtype=np.int64)
    for row, ids in enumerate(sequences):
        token_BT[row, : len(ids)] = ids
    column_T = np.arange(widest)
    mask_BT = (column_T < length_B[:, None]).astype(np.int64)
    # The logits that predict token t stand in column t - 1.
    first = min(starts) - 1
    logits_BTV = call(
        token_BT,
        mask_BT,
        np.broadcast_to(column_T, token_BT.shape),
        None,
        keep=widest - first,
    ).reshape(len(sequences), widest - first, -1)
    target_BT = torch.from_numpy(token_BT[:, first + 1 :]).to(logits_BTV.device)
    scored = []
    for row, (length, start) in enumerate(zip(length_B, starts, strict=True)):
        here = slice(start - 1 - first, int(length) - 1 - first)
        check_logits(logits_BTV[row, here], numbers[row])
        log_p_TV = torch.log_softmax(logits_BTV[row, here].float(), dim=-1)
        log_p_T = log_p_TV.gather(1, target_BT[row, here, None])[:, 0]
        scored.append(log_p_T.cpu().numpy())
    return scored


def _one_sequence(
    call: ModelCall, ids: Sequence[int], start: int, number: int
) -> npt.NDArray[np.float32]:
    """Score a sequence alone, in pieces if its logits would not fit into one pass."""
    columns = max(1, _LOGITS // call.vocab_size)
    if len(ids) - start + 1 <= columns:
        return _one_pass(call, [ids], [start], [number])[0]
    token_1T = np.array(ids, dtype=np.int64)[None, :]
    # Recurrent layers take one token at a time from a cache: such a model reads all again.
    cache = DynamicCache() if copies_agree(call.model) else None
    pieces = []
    # The last token predicts nothing that is asked for.
    for begin in range(0, len(ids) - 1, columns):
        end = min(begin + columns, len(ids) - 1)
        new = begin if cache is not None else 0
        logits_1TV = call(
            token_1T[:, new:end],
            np.ones((1, end), dtype=np.int64),
            np.arange(new, end)[None, :],
            cache,
            keep=end - begin,
        ).reshape(1, end - begin, -1)
        check_logits(logits_1TV[0], number)
        target_T = torch.from_numpy(token_1T[0, begin + 1 : end + 1]).to(logits_1TV.device)
        log_p_TV = torch.log_softmax(logits_1TV[0].float(), dim=-1)
        pieces.append(log_p_TV.gather(1, target_T[:, None])[:, 0].cpu().numpy())
    return np.asarray(np.concatenate(pieces)[start - 1 :], dtype=np.float32)
