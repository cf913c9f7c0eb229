"""Token draws that depend on a request's seed and step alone, not on what else is in the batch.

Axes: _B rows of the batch, _J jobs that draw, _F forks of a row, _V vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from gradalign.models.numbers import NotNumbersError
from gradalign.models.sampling import SamplingSettings, probabilities

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# float64 work arrays of one draw are kept below about this many numbers.
_DRAW_NUMBERS = 1 << 25


def uniforms(seed_J: npt.NDArray[np.uint64], step_J: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return one number in [0, 1) per job from a counter-based generator, float64 [J].

    SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014):
    the seed is mixed once, so that neighbouring seeds have unrelated streams, and the step
    selects the stream's output directly.
    """
    state_J = _mix(seed_J + _GOLDEN) + (step_J.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    top_J = _mix(state_J) >> np.uint64(11)
    return torch.from_numpy(top_J.astype(np.float64) * 2.0**-53)


def _mix(x_J: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x_J = (x_J ^ (x_J >> np.uint64(30))) * _MIX_1
    x_J = (x_J ^ (x_J >> np.uint64(27))) * _MIX_2
    return np.asarray(x_J ^ (x_J >> np.uint64(31)), dtype=np.uint64)


def draw(
    logits_BV: torch.Tensor,
    row_J: npt.NDArray[np.int64],
    seed_J: npt.NDArray[np.uint64],
    step_J: npt.NDArray[np.int64],
    sampling: SamplingSettings,
) -> npt.NDArray[np.int64]:
    """Draw one token per job by the inverse distribution function, [J].

    Args:
        logits_BV: of every row.
        row_J: the row that each job draws from.
        seed_J: seed of each job.
        step_J: how many tokens each job has drawn before.
        sampling: temperature and truncation.

    Raises:
        NotNumbersError: a row has no distribution; its index is that of the job.
    """
    if logits_BV.device.type == "mps":  # has no float64
        logits_BV = logits_BV.cpu()
    order_J = np.argsort(row_J, kind="stable")
    sorted_J = row_J[order_J]
    begin_J = np.searchsorted(sorted_J, sorted_J)
    column_J = np.arange(len(sorted_J)) - begin_J  # number of the job among those of its row
    u_BF = torch.zeros(logits_BV.shape[0], int(column_J.max(initial=0)) + 1, dtype=torch.float64)
    u_BF[sorted_J, column_J] = uniforms(seed_J[order_J], step_J[order_J])
    u_BF = u_BF.to(logits_BV.device)
    rows_at_once = max(1, _DRAW_NUMBERS // logits_BV.shape[1])
    drawn = []
    for begin in range(0, logits_BV.shape[0], rows_at_once):
        some = slice(begin, begin + rows_at_once)
        cdf_BV = torch.cumsum(probabilities(logits_BV[some], sampling), dim=1)
        total_B1 = cdf_BV[:, -1:]
        # u * total may round up to the total itself, which would be past the last token.
        target_BF = torch.minimum(
            u_BF[some] * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1))
        )
        # The first token whose cumulative mass exceeds the target: never one of mass 0.
        token_BF = torch.searchsorted(cdf_BV, target_BF, right=True)
        # A row with NaN or no finite logit has no token: marked, so that one transfer suffices.
        drawn.append(torch.where(torch.isfinite(total_B1), token_BF, -1))
    token_J = np.empty(len(row_J), dtype=np.int64)
    token_J[order_J] = torch.cat(drawn).cpu().numpy()[sorted_J, column_J]
    if (token_J < 0).any():
        broken = int(np.flatnonzero(token_J < 0)[0])
        raise NotNumbersError(broken, f"at token {int(step_J[broken])} of a response")
    return token_J
