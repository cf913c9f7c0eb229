"""A server's log-probabilities, cut to the tokens that student and teacher both have.

A server's softmax is over all rows of its output layer, and cannot be told otherwise. Where it is
asked for the ids outside the tokens, the cut is exact. That is done at the nodes. Elsewhere only
those among its top tokens are seen; the others are at most as wrong as at the nodes, and a
server that hides more than `HIDDEN_MASS` there is refused. Draws are another matter: a bias keeps
them from these ids.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from gradalign.errors import EngineError, UsageError

HIDDEN_MASS = 1e-3
"""Most mass that ids outside the tokens may have where a server does not show it: its
log-probabilities are then off by as many nats at most."""

MOST_BANNED = 8192
"""Most ids that a request may keep from being drawn."""

# The least that servers take; a mass of exp(-100) is never drawn.
_BIAS = -100.0


def bans(outside: Collection[int]) -> dict[str, dict[str, float]]:
    """Return the fields of a request that keep ids from being drawn.

    Raises:
        UsageError: they are too many.
    """
    if len(outside) > MOST_BANNED:
        raise UsageError(
            f"{len(outside):,} rows of the output layer stand for no token, too many to keep a "
            "server from drawing them.",
            "Use --engine vllm or transformers.",
        )
    return {"logit_bias": {str(token): _BIAS for token in outside}} if outside else {}


def cut(row: Mapping[int, float], outside: Collection[int]) -> dict[int, float]:
    """Leave ids out of log-probabilities, and make the rest those of a distribution without them.

    Args:
        row: log-probability by token id.
        outside: ids to leave out; those that the row does not have count as without mass.
    """
    mass = sum(np.exp(value) for token, value in row.items() if token in outside)
    if mass == 0.0:
        return {token: value for token, value in row.items() if token not in outside}
    # What is left counts: all mass outside is a broken answer, and not divided by.
    rest = np.log1p(-min(float(mass), 1.0 - 1e-12))
    return {token: float(value - rest) for token, value in row.items() if token not in outside}


def hidden_mass(
    top: Mapping[int, float], filled: Mapping[int, float], outside: Collection[int], num_top: int
) -> float:
    """Return how much mass ids outside the tokens have that the top tokens do not show.

    What was not answered when it was asked for is bounded: no such id is more probable than the
    least of the top ones, and all together have no more mass than is left.

    Args:
        top: the most probable tokens with their log-probabilities, perhaps with the drawn one.
        filled: the same with all that was asked for besides.
        outside: the ids.
        num_top: how many of `top` are the most probable ones.
    """
    hidden = [token for token in outside if token not in top]
    known = sum(float(np.exp(filled[token])) for token in hidden if token in filled)
    unknown = sum(token not in filled for token in hidden)
    if not unknown:
        return known
    left = max(0.0, 1.0 - float(np.exp(np.array(list(filled.values()))).sum()))
    least = sorted(top.values(), reverse=True)[min(num_top, len(top)) - 1]
    return known + min(unknown * float(np.exp(least)), left)


def check_hidden(mass: float) -> None:
    """Refuse a server that hides too much mass outside the tokens.

    Raises:
        EngineError: more than `HIDDEN_MASS`.
    """
    if mass > HIDDEN_MASS:
        raise EngineError(
            f"the rows of a served teacher's output layer that stand for no token of both models "
            f"may have {mass:.1e} of its mass, of which a server cannot tell at every position.",
            "Read this teacher without --teacher-base-url, or raise --support-size; finished "
            "shards are kept.",
        )
