"""What a moved student gains, from the responses and rollouts of the student as it was.

By the performance-difference lemma a moved student P' gains the old student's advantage of the
tokens that it takes (Kakade and Langford, "Approximately Optimal Approximate Reinforcement
Learning", ICML 2002, lemma 6.1). Over responses of the old student P that is

    mean over responses  sum over nodes  w rho  sum over tokens (P'_j - P_j) (V_j - b)

with w one over a node's inclusion probability, rho the ratio P' / P of the prefix, and any b that
does not depend on the token that was drawn. Axes: _L tokens of a response, _N its nodes, _C
candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CLIP = 20.0
"""Largest ratio of a prefix's probabilities that counts."""

LARGEST = 50.0
"""Largest logarithm that is exponentiated."""


@dataclass(frozen=True)
class ResponseGain:
    """What one response says of a moved student.

    Attributes:
        gain: its share in the estimated change of success.
        outside: by how much likelier it becomes to take a token that was no candidate.
        divergence: its share in KL(P || P') of whole responses, nats.
        ratio: P' / P of the response.
    """

    gain: float
    outside: float
    divergence: float
    ratio: float


def prefix_ratios(old_L: Floats, new_L: Floats, position_N: Ints) -> Floats:
    """Return rho, P' / P of the tokens before every node, clipped, [N].

    Args:
        old_L: log-probabilities of the response's own tokens by the student as it was.
        new_L: by the moved one.
        position_N: of the nodes.
    """
    log_L = np.cumsum(new_L - old_L)
    return np.asarray(np.exp(np.minimum(np.r_[0.0, log_L[:-1]][position_N], math.log(CLIP))))


def token_gains(
    old_NC: Floats, new_NC: Floats, value_NC: Floats, known_NC: Bools, chosen_NC: Bools
) -> tuple[Floats, Floats]:
    """Return the sums over tokens at every node, and the mass that leaves the candidates, [N].

    A candidate that is one whatever token the response took has its own term. A token that is a
    candidate only because the response took it stands for all others that it could have taken: its
    term is over its probability P_j, so that the sum is right on average over responses.

    Args:
        old_NC: the candidates' probabilities by the student as it was.
        new_NC: by the moved one.
        value_NC: V.
        known_NC: where V was measured.
        chosen_NC: candidates that are some whatever token the response took.
    """
    chosen_NC = known_NC & chosen_NC
    value_NC = np.where(known_NC, value_NC, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        change_NC = np.where(chosen_NC, new_NC - old_NC, new_NC / old_NC - 1.0)
        mass_N = np.where(chosen_NC, old_NC, 0.0).sum(axis=1)
        base_N = np.where(chosen_NC, old_NC * value_NC, 0.0).sum(axis=1) / mass_N
    advantage_NC = np.where(known_NC, value_NC - np.nan_to_num(base_N)[:, None], 0.0)
    outside_N = np.where(chosen_NC, old_NC - new_NC, 0.0).sum(axis=1)
    return (np.where(known_NC, change_NC, 0.0) * advantage_NC).sum(axis=1), outside_N


def response_gain(
    old_L: Floats, new_L: Floats, factor_N: Floats, gain_N: Floats, outside_N: Floats
) -> ResponseGain:
    """Add up a response.

    Args:
        old_L: log-probabilities of its own tokens by the student as it was.
        new_L: by the moved one.
        factor_N: w rho of its nodes.
        gain_N: from `token_gains`.
        outside_N: likewise.
    """
    log_L = new_L - old_L
    return ResponseGain(
        gain=float(factor_N @ gain_N),
        outside=max(float(factor_N @ outside_N), 0.0),
        # KL(P || P') = E (r - 1 - log r), in which every term is above 0.
        divergence=float((np.expm1(np.minimum(log_L, LARGEST)) - log_L).sum()),
        ratio=math.exp(min(float(log_L.sum()), LARGEST)),
    )
