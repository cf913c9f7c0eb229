"""Which tokens are forced at a node, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Candidates:
    """The tokens that continuations are forced through at one node.

    Attributes:
        token_ids_C: vocabulary ids, no repeats; the sampled token first, then by decreasing
            student probability.
        prob_C: the student's probability of each over the whole vocabulary.
        why_C: why each is there: "sampled", "student", "teacher:NAME", joined by "+".
    """

    token_ids_C: npt.NDArray[np.int64]
    prob_C: npt.NDArray[np.float64]
    why_C: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of the student's probability mass that the candidates hold."""
        return float(self.prob_C.sum())


def choose_candidates(
    token_ids_S: npt.ArrayLike,
    prob_S: npt.ArrayLike,
    sampled_token: int,
    teacher_tokens: Mapping[str, npt.ArrayLike] | None = None,
    *,
    coverage: float = 0.98,
    max_candidates: int = 8,
    min_prob: float = 0.01,
    sampled_prob: float | None = None,
) -> Candidates:
    """Choose the candidates of one node from the student's sparse distribution.

    The sampled token always; the student's tokens by probability until they hold `coverage` of
    its mass or are `max_candidates`; and each teacher's top tokens that the student gives at
    least `min_prob`. The teachers' tokens come on top of `max_candidates`, which bounds only what
    the student's own mass asks for. Outcomes play no part.

    Args:
        token_ids_S: ids of the student's most probable tokens, [S], any order.
        prob_S: their probabilities over the whole vocabulary, [S].
        sampled_token: the token that the spine took.
        teacher_tokens: for each teacher its top tokens, most probable first.
        coverage: student mass at which the student's list ends, in (0, 1].
        max_candidates: the sampled token and the student's list hold at most so many.
        min_prob: least student probability of a teacher's token.
        sampled_prob: the sampled token's probability, needed if it is not in `token_ids_S`.

    Raises:
        ValueError: shapes differ, a limit is out of range, or the sampled token's probability
            is not known.
    """
    ids_S = np.asarray(token_ids_S, dtype=np.int64)
    probs_S = np.asarray(prob_S, dtype=np.float64)
    if ids_S.ndim != 1 or ids_S.shape != probs_S.shape:
        raise ValueError(
            f"token_ids and prob must both be [S], got {ids_S.shape} and {probs_S.shape}"
        )
    if not 0.0 < coverage <= 1.0 or max_candidates < 1 or not 0.0 <= min_prob <= 1.0:
        raise ValueError(
            "need 0 < coverage <= 1, max_candidates >= 1 and 0 <= min_prob <= 1, got "
            f"{coverage}, {max_candidates} and {min_prob}"
        )
    known = dict(zip(ids_S.tolist(), probs_S.tolist(), strict=True))
    if sampled_prob is not None:
        known.setdefault(int(sampled_token), float(sampled_prob))
    if int(sampled_token) not in known:
        raise ValueError(f"the student's probability of sampled token {sampled_token} is missing")

    reasons: dict[int, list[str]] = {int(sampled_token): ["sampled"]}
    # Ties are broken by id, so that the choice does not depend on the order of the input.
    order = np.lexsort((ids_S, -probs_S))
    mass = 0.0
    for token, prob in zip(ids_S[order].tolist(), probs_S[order].tolist(), strict=True):
        if mass >= coverage or prob <= 0.0:
            break
        if token not in reasons and len(reasons) >= max_candidates:
            break
        reasons.setdefault(token, []).append("student")
        mass += prob
    for name, tokens in (teacher_tokens or {}).items():
        for token in np.asarray(tokens, dtype=np.int64).tolist():
            if known.get(token, 0.0) >= min_prob and known.get(token, 0.0) > 0.0:
                reasons.setdefault(token, []).append(f"teacher:{name}")

    first, *rest = reasons
    rest.sort(key=lambda token: (-known[token], token))
    chosen = [first, *rest]
    return Candidates(
        token_ids_C=np.asarray(chosen, dtype=np.int64),
        prob_C=np.asarray([known[token] for token in chosen]),
        why_C=tuple("+".join(reasons[token]) for token in chosen),
    )
