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
[Q, Q]. Only products of DIFFERENT questions are averaged: two questions share no rollouts, so
products of ideal and ideal or ideal and method are unbiased for the expected update, whatever the
noise. The method's squared length is that of a real step on `STEP` questions, whose updates
disagree, and a step of a given length is spent on the disagreement too. So a direction without any
common part, such as a random one, has alignment 0 within its interval instead of none, and no
number here grows with the number of questions that a run happens to have. Axes: _N, _M nodes, _C
candidates, _D hidden units, _Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import stdtrit  # scipy.stats takes seconds to import

from gradalign.alignment.fieller import UNKNOWN, RatioSet, fieller_set
from gradalign.estimates import Arm, Estimate
from gradalign.rounding import is_residue

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IDEAL = Arm("", "")
"""What stands for the ideal gradient among the arms of directions."""

_FIRST = Arm("", "first half")
_SECOND = Arm("", "second half")

STEP = 32
"""Questions of a step of training, unless told otherwise."""

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
        halves: the same from each half of the rollouts, [2, N, C], of methods that are measured
            from rollouts.
    """

    token_NC: Ints
    hidden_ND: Floats
    question_N: Ints
    directions: Mapping[Arm, Floats]
    halves: Mapping[Arm, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes."""
        nodes = len(self.token_NC)
        for arm, direction_NC in self.directions.items():
            if self.token_NC.shape != direction_NC.shape or self.token_NC.ndim != 2:
                raise ValueError(
                    "token_NC and every direction must be [nodes, candidates], got "
                    f"{self.token_NC.shape} and, for {arm}, {direction_NC.shape}"
                )
        for arm, half_HNC in self.halves.items():
            if half_HNC.shape != (2, *self.token_NC.shape):
                raise ValueError(f"halves of {arm} must be [2, N, C], got {half_HNC.shape}")
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
        self._own_AQ: dict[Arm, Floats] = {}

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
        if same:
            self._add_own(left)

    def grams(self, arm: Arm) -> UpdateGrams:
        """The three matrices of one teacher and method."""
        method_QQ = self._method_AQQ[arm]
        own_Q = self._own_AQ.get(arm, np.diag(method_QQ))
        return UpdateGrams(self._cross_AQQ[arm], self._ideal_QQ, method_QQ, own_Q)

    def _add_own(self, part: Updates) -> None:
        """Add |M_q|^2 as products of halves; a question's nodes all lie in one part."""
        count = len(self._ideal_QQ)
        for arm, half_HNC in part.halves.items():
            halves = Updates(
                part.token_NC,
                part.hidden_ND,
                part.question_N,
                {_FIRST: half_HNC[0], _SECOND: half_HNC[1]},
            )
            own_Q = self._own_AQ.setdefault(arm, np.zeros(count))
            for rows in _blocks(len(part.token_NC), len(part.token_NC)):
                products = _BlockProducts(halves, halves, rows, count)
                own_Q += np.diag(products.of(_FIRST, _SECOND))

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
    """Gram matrices of one method against the ideal gradient, each [Q, Q].

    Attributes:
        cross_QQ: ideal of the first question, method of the second.
        ideal_QQ, method_QQ: of one with itself.
        own_Q: |M_q|^2 without the noise of the rollouts that a method is measured from; the
            diagonal of `method_QQ` for methods that are not.
    """

    cross_QQ: Floats
    ideal_QQ: Floats
    method_QQ: Floats
    own_Q: Floats


@dataclass(frozen=True, eq=False)
class UpdateEstimate:
    """How a step of one method agrees with the ideal one.

    Attributes:
        cosine: of the expected ideal update and a step on `STEP` questions.
        gain: first-order gain in success of a step of length 1 in the output layer's weights.
        influence_Q: how far each question moves the gain, [Q]: they sum to 0, and
            Q / (Q - 1) times the sum of their squares is its variance.
    """

    cosine: RatioSet
    gain: RatioSet
    influence_Q: Floats


def update_estimate(grams: UpdateGrams, *, step: int = STEP, level: float = 0.95) -> UpdateEstimate:
    """Return both from a method's Gram matrices.

    With c, a, b of a pair of different questions: half of <G_q, M_p> + <G_p, M_q>; <G_q, G_p>;
    and <M_q, M_p> plus ((|M_q|^2 + |M_p|^2) / 2 - <M_q, M_p>) / step, whose mean is the expected
    |M|^2 of a step on so many questions. C, A and B are means over pairs, U-statistics of order
    2. The gain is C / sqrt(B), the cosine C / sqrt(A B). Covariances are those of the delete-one
    jackknife, 4 (Q - 1) / (Q (Q - 2)^2) times sums over questions' own means; the interval of the
    cosine is Fieller's set.

    Args:
        grams: of the method.
        step: questions of the step.
        level: coverage.
    """
    count = len(grams.cross_QQ)
    nothing = UpdateEstimate(UNKNOWN, UNKNOWN, np.full(count, np.nan))
    if count < 2:
        return nothing
    spread_QQ = 0.5 * (grams.own_Q[:, None] + grams.own_Q[None, :]) - grams.method_QQ
    pairs = (
        0.5 * (grams.cross_QQ + grams.cross_QQ.T),
        grams.ideal_QQ,
        grams.method_QQ + spread_QQ / step,
    )
    (cross, cross_Q), (ideal, ideal_Q), (method, method_Q) = map(_pair_means, pairs)
    if not method > 0:
        return nothing
    root = math.sqrt(method)
    gain = cross / root
    if count < 3:
        value = gain / math.sqrt(ideal) if ideal > 0 else math.nan
        ends = (-math.inf, math.inf)
        return UpdateEstimate(RatioSet(value, *ends), RatioSet(gain, *ends), np.full(count, np.nan))
    scale = 2.0 * (count - 1) / (count * (count - 2))
    influence_Q = scale * (cross_Q / root - 0.5 * gain * method_Q / method)
    reach = float(stdtrit(count - 1, (1.0 + level) / 2))
    half = reach * math.sqrt(count / (count - 1) * float(influence_Q @ influence_Q))
    cosine = UNKNOWN
    if ideal > 0:
        length = math.sqrt(ideal * method)
        length_Q = (ideal_Q * method + method_Q * ideal) / (2.0 * length)
        factor = scale**2 * count / (count - 1)
        variances = (
            factor * float(cross_Q @ cross_Q),
            factor * float(cross_Q @ length_Q),
            factor * float(length_Q @ length_Q),
        )
        cosine = RatioSet(cross / length, *fieller_set(cross, length, variances, reach))
    return UpdateEstimate(cosine, RatioSet(gain, gain - half, gain + half), influence_Q)


def mean_of_shared(gram_QQ: Floats, *, level: float = 0.95) -> tuple[Estimate, Floats]:
    """Return the mean of a Gram matrix over pairs of different questions, and its influences [Q].

    Of updates that is the squared length of what the questions share. The interval is the
    delete-one jackknife's, with t.
    """
    count = len(gram_QQ)
    if count < 3:
        value = _pair_means(gram_QQ)[0] if count == 2 else math.nan
        return Estimate(value), np.full(count, np.nan)
    mean, mean_Q = _pair_means(gram_QQ)
    influence_Q = 2.0 * (count - 1) / (count * (count - 2)) * mean_Q
    return _estimate(mean, influence_Q, level), influence_Q


def mean_of_questions(
    value_Q: Floats, *, less: tuple[float, Floats] | None = None, level: float = 0.95
) -> Estimate:
    """Return a mean over questions with its interval.

    Args:
        value_Q: a number of every question, [Q]; NaN where it has none, and then there is none.
        less: an estimate that is taken off, with its influences.
        level: coverage.
    """
    count = len(value_Q)
    if not count or np.isnan(value_Q).any():
        return Estimate(math.nan)
    mean = float(value_Q.mean())
    influence_Q = (value_Q - mean) / count
    if less is not None:
        mean, influence_Q = mean - less[0], influence_Q - less[1]
    return _estimate(mean, influence_Q, level)


def _estimate(value: float, influence_Q: Floats, level: float) -> Estimate:
    count = len(influence_Q)
    if count < 2 or np.isnan(influence_Q).any():
        return Estimate(value)
    se = math.sqrt(count / (count - 1) * float(influence_Q @ influence_Q))
    half = float(stdtrit(count - 1, (1.0 + level) / 2)) * se
    return Estimate(value, value - half, value + half, se)


def _pair_means(gram_QQ: Floats) -> tuple[float, Floats]:
    """Mean over pairs of different questions, and each question's own mean less that, [Q].

    The mean is exactly 0 where only rounding is left of it.
    """
    count = len(gram_QQ)
    off_QQ = gram_QQ - np.diag(np.diag(gram_QQ))
    pairs = count * (count - 1)
    mean = float(off_QQ.sum()) / pairs
    if is_residue(mean, float(np.abs(off_QQ).sum()) / pairs):
        mean = 0.0
    return mean, off_QQ.sum(axis=1) / (count - 1) - mean


def _sparse(token_NC: Ints, direction_NC: Floats, known: Ints) -> csr_array:
    there_NC = (token_NC >= 0) & (direction_NC != 0)
    row, _ = np.nonzero(there_NC)
    column = np.searchsorted(known, token_NC[there_NC])
    shape = (len(token_NC), len(known))
    return csr_array((direction_NC[there_NC], (row, column)), shape=shape)


def _indicator(question_N: Ints, num_questions: int) -> csr_array:
    count = len(question_N)
    ones = np.ones(count)
    return csr_array((ones, (np.arange(count), question_N)), shape=(count, num_questions))
