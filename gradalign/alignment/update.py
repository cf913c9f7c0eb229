"""Update-level alignment: nodes act together, through weights that they share.

Pooled alignment takes the logits of every node as free. They are not: the output layer turns the
hidden state h_u of node u into logits W h_u, so a logit direction m_u asks for the update
m_u h_u^T of W (where a model caps or scales W h_u, that of m_u times the derivative of each logit
by it), and a step of training applies the sum over nodes. The cosine here is that of
sum_u g_u h_u^T (where the ideal gradient would move W) and sum_u m_u h_u^T (where a method
moves it). Directions that point everywhere at random cancel in the sum, and those that agree from
node to node add up.

No matrix of the size of W is formed per node: inner products of two such sums are

    < sum_u a_u h_u^T , sum_v b_v h_v^T > = sum_uv (a_u . b_v) (h_u . h_v),

a Gram matrix of sparse directions times one of hidden states. It is kept per pair of questions,
[Q, Q]. In the inner product of ideal and method, and in the ideal's squared norm, only products of
DIFFERENT questions are summed: two questions share no rollouts, so both are unbiased for the
expected update over questions, whatever the noise in the ideal gradient and in methods that are
measured from the same rollouts. The method's squared norm takes all pairs: it is that of a real
step on this many questions, whose updates disagree, and a step of a given length is spent on the
disagreement too. So a direction without any common part, such as a random one, has alignment 0
within its interval instead of none. Axes: _N, _M nodes, _C candidates, _D hidden units, _Q
questions, _B resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import norm
from scipy.stats import t as t_dist

from gradalign.alignment.bootstrap import quantile_ends
from gradalign.estimates import Arm, Estimate
from gradalign.rounding import is_residue

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IDEAL = Arm("", "")
"""What stands for the ideal gradient among the arms of directions."""

# Blocks of the node-by-node Gram matrices are kept below about this many numbers.
_BLOCK = 1 << 23


@dataclass(frozen=True, eq=False)
class Updates:
    """Rank-one updates of the output layer, one per node, for the ideal gradient and all methods.

    Attributes:
        token_NC: token ids of each node's directions, -1 at padding, [N, C].
        hidden_ND: what the output layer reads at each node, [N, D].
        question_N: index of each node's question, [N].
        directions: for `IDEAL` and every teacher and method, the direction on the node's tokens
            times the node's weight, [N, C]; what it says of padding does not count. It is one on
            what the output layer gives: on the logits, times the derivative of each by that.
    """

    token_NC: Ints
    hidden_ND: Floats
    question_N: Ints
    directions: Mapping[Arm, Floats]

    def __post_init__(self) -> None:
        """Check the shapes."""
        nodes = len(self.token_NC)
        for arm, direction_NC in self.directions.items():
            if self.token_NC.shape != direction_NC.shape or self.token_NC.ndim != 2:
                raise ValueError(
                    "token_NC and every direction must be [nodes, candidates], got "
                    f"{self.token_NC.shape} and, for {arm}, {direction_NC.shape}"
                )
        if self.hidden_ND.ndim != 2 or len(self.hidden_ND) != nodes:
            raise ValueError(f"hidden_ND must be [{nodes}, units], got {self.hidden_ND.shape}")
        if self.question_N.shape != (nodes,):
            raise ValueError(f"question_N must be ({nodes},), got {self.question_N.shape}")


class GramSums:
    """Inner products of the questions' summed updates, gathered from pairs of parts of a run.

    Memory is three numbers per pair of questions and method, and the two parts at hand.

    Args:
        num_questions: Q, of the whole run.
        arms: teachers and methods.
    """

    def __init__(self, num_questions: int, arms: Iterable[Arm]) -> None:
        shape = (num_questions, num_questions)
        self._ideal_QQ = np.zeros(shape)
        self._cross_AQQ = {arm: np.zeros(shape) for arm in arms}
        self._method_AQQ = {arm: np.zeros(shape) for arm in self._cross_AQQ}

    def add(self, left: Updates, right: Updates) -> None:
        """Add the products of two parts' nodes; of a part with itself, give it twice.

        Every unordered pair of parts is to be added once.

        Raises:
            ValueError: hidden states of different widths, or a question index out of range.
        """
        self._check(left, right)
        same = left is right
        for rows in _blocks(len(left.token_NC), len(right.token_NC)):
            products = _BlockProducts(left, right, rows, len(self._ideal_QQ))
            _both(self._ideal_QQ, products.of(IDEAL, IDEAL), same=same)
            for arm, cross_QQ in self._cross_AQQ.items():
                _both(self._method_AQQ[arm], products.of(arm, arm), same=same)
                cross_QQ += products.of(IDEAL, arm)
                if not same:
                    cross_QQ += products.of(arm, IDEAL).T

    def grams(self, arm: Arm) -> UpdateGrams:
        """The three matrices of one teacher and method."""
        return UpdateGrams(self._cross_AQQ[arm], self._ideal_QQ, self._method_AQQ[arm])

    def _check(self, left: Updates, right: Updates) -> None:
        if left.hidden_ND.shape[1] != right.hidden_ND.shape[1]:
            raise ValueError(
                f"hidden states must have one width, got {left.hidden_ND.shape} and "
                f"{right.hidden_ND.shape}"
            )
        count = len(self._ideal_QQ)
        for part in (left, right):
            if len(part.question_N) and not (
                part.question_N.min() >= 0 and part.question_N.max() < count
            ):
                raise ValueError(f"question_N must lie in 0..{count - 1}")


class _BlockProducts:
    """Products of some of one part's nodes with all of another's; hidden states only once."""

    def __init__(self, left: Updates, right: Updates, rows: slice, num_questions: int) -> None:
        known = np.unique(np.concatenate([left.token_NC.ravel(), right.token_NC.ravel()]))
        self._left = {
            arm: _sparse(left.token_NC[rows], direction_NC[rows], known)
            for arm, direction_NC in left.directions.items()
        }
        self._right = {
            arm: _sparse(right.token_NC, direction_NC, known)
            for arm, direction_NC in right.directions.items()
        }
        self._hidden_NM = left.hidden_ND[rows] @ right.hidden_ND.T
        self._from_left = _indicator(left.question_N[rows], num_questions).T
        self._to_right = _indicator(right.question_N, num_questions)

    def of(self, left: Arm, right: Arm) -> Floats:
        """Sum over nodes of (a_u . b_v) (h_u . h_v) by question, [Q, Q]."""
        products_NM = (self._left[left] @ self._right[right].T).toarray()
        products_NM *= self._hidden_NM
        return np.asarray(self._from_left @ (products_NM @ self._to_right))


def _blocks(nodes: int, others: int) -> Iterator[slice]:
    rows = max(1, _BLOCK // max(1, others))
    return (slice(begin, begin + rows) for begin in range(0, nodes, rows))


def _both(gram_QQ: Floats, found_QQ: Floats, *, same: bool) -> None:
    """Add products to a symmetric matrix: of two different parts, in both orders."""
    gram_QQ += found_QQ
    if not same:
        gram_QQ += found_QQ.T


@dataclass(frozen=True, eq=False)
class UpdateGrams:
    """Gram matrices of one method against the ideal gradient, each [Q, Q]."""

    cross_QQ: Floats
    ideal_QQ: Floats
    method_QQ: Floats

    @property
    def ideal_norm2(self) -> float:
        """Unbiased squared norm of the expected ideal update; noise can make it negative.

        It is 0 where only rounding is left: where the products of different questions cancel.
        """
        once = np.ones((1, len(self.ideal_QQ)))
        found, size = _different(self.ideal_QQ, once), _different(np.abs(self.ideal_QQ), once)
        return float(np.where(is_residue(found, size), 0.0, found)[0])

    def estimate(self, weight_BQ: npt.ArrayLike | None = None) -> Floats:
        """Update-level alignment, [B] ([1] without weights).

        The ideal's norm is that of all questions once each, whatever the weights: it is the same
        for all methods of a run, and resampling it would only hide how they differ.

        Args:
            weight_BQ: how often each question counts, [B, Q]; once each by default.

        Returns:
            NaN where either squared norm is not positive, or only by rounding. Noise can carry
            the value past 1.
        """
        count = len(self.cross_QQ)
        weights = np.ones((1, count)) if weight_BQ is None else np.asarray(weight_BQ, np.float64)
        cross_B = _different(self.cross_QQ, weights)
        method_B = ((weights @ self.method_QQ) * weights).sum(axis=1)
        size_B = ((weights @ np.abs(self.method_QQ)) * weights).sum(axis=1)
        method_B = np.where(is_residue(method_B, size_B), 0.0, method_B)
        method_B = method_B / weights.sum(axis=1) ** 2
        norms_B = np.maximum(self.ideal_norm2, 0.0) * np.maximum(method_B, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(norms_B > 0, cross_B / np.sqrt(norms_B), np.nan)


def update_alignment(
    grams: UpdateGrams, *, seed: int, num_resamples: int = 2000, level: float = 0.95
) -> Estimate:
    """Update-level alignment with a bootstrap interval over questions.

    The interval is a percentile one whose levels are those of a t distribution with Q - 1
    degrees of freedom, at the estimated norm of the ideal update (see `UpdateGrams.estimate`). A
    question that a resample holds twice is not paired with itself in the inner product.

    Args:
        grams: the method's Gram matrices.
        seed: of the resampling generator.
        num_resamples: bootstrap resamples.
        level: coverage.
    """
    count = len(grams.cross_QQ)
    estimate = float(grams.estimate()[0]) if count > 1 else np.nan
    if not np.isfinite(estimate):
        return Estimate(estimate)
    rng = np.random.default_rng(seed)
    weight_BQ = rng.multinomial(count, np.full(count, 1.0 / count), size=num_resamples)
    values_B = grams.estimate(weight_BQ)
    finite_B = values_B[np.isfinite(values_B)]
    stretch = np.sqrt(count / (count - 1))
    reach = stretch * t_dist.ppf((1.0 + level) / 2, count - 1)
    low, high = quantile_ends(values_B, *norm.cdf([-reach, reach]))
    se = float(finite_B.std() * stretch) if len(finite_B) else np.nan
    return Estimate(estimate, float(low), float(high), se)


def _sparse(token_NC: Ints, direction_NC: Floats, known: Ints) -> csr_array:
    there_NC = token_NC >= 0
    row, _ = np.nonzero(there_NC)
    column = np.searchsorted(known, token_NC[there_NC])
    shape = (len(token_NC), len(known))
    return csr_array((direction_NC[there_NC], (row, column)), shape=shape)


def _indicator(question_N: Ints, num_questions: int) -> csr_array:
    count = len(question_N)
    ones = np.ones(count)
    return csr_array((ones, (np.arange(count), question_N)), shape=(count, num_questions))


def _different(gram_QQ: Floats, weight_BQ: Floats) -> Floats:
    """Mean over pairs of different questions, weighted, [B]."""
    off_QQ = gram_QQ - np.diag(np.diag(gram_QQ))
    total_B = ((weight_BQ @ off_QQ) * weight_BQ).sum(axis=1)
    pairs_B = weight_BQ.sum(axis=1) ** 2 - (weight_BQ**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total_B / pairs_B)
