"""What a step of training does, from the inner products of single questions' updates.

G_q is the update that raises question q's success, M_q what an arm does at q, both in some space
of weights. Only products of DIFFERENT questions are averaged: two questions share no rollouts, so
products of ideal and ideal or ideal and method are unbiased for the expected update, whatever the
noise. The method's squared length is that of a real step on some questions, whose updates
disagree, and a step of a given length is spent on the disagreement too. So a direction without any
common part, such as a random one, has alignment 0 within its interval instead of none, and no
number here grows with the number of questions that a run happens to have. Axes: _Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # scipy.stats takes seconds to import

from gradalign.alignment.fieller import UNKNOWN, RatioSet, farther_reaches, fieller_set
from gradalign.estimates import Estimate
from gradalign.rounding import is_residue

Floats = npt.NDArray[np.float64]

STEP = 32
"""Questions of a step of training, unless told otherwise."""


TOLD_APART = {24: 0.38, 64: 0.88, 96: 0.92}
"""By number of questions: how often the better of two teachers was named by the gain per step, on
the benchmark's two pairs, where their trainings differed by more than 0.05 and three standard
errors (`benchmarks/verdict_study.py`)."""


def how_many_questions() -> str:
    """Say how many questions a ranking of teachers by the gain per step takes."""
    shares = ", ".join(f"{share:.0%} of sets of {size}" for size, share in TOLD_APART.items())
    return (
        "ranking teachers by the gain per step takes questions: in the study of trainings the "
        f"better of two was named in {shares}"
    )


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
        gain: first-order gain in success of a step of length 1 in the weights.
        influence_Q: how far each question moves the gain, [Q]: they sum to 0, and
            Q / (Q - 1) times the sum of their squares is its variance.
        training_Q: the part of that which is of the question's own update, [Q]: how it moves the
            step; the rest is what the question says of steps.
    """

    cosine: RatioSet
    gain: RatioSet
    influence_Q: Floats
    training_Q: Floats


def update_estimate(grams: UpdateGrams, *, step: int = STEP, level: float = 0.95) -> UpdateEstimate:
    """Return both from a method's Gram matrices.

    With c, a, b of a pair of different questions: half of <G_q, M_p> + <G_p, M_q>; <G_q, G_p>;
    and <M_q, M_p> plus ((|M_q|^2 + |M_p|^2) / 2 - <M_q, M_p>) / step, whose mean is the expected
    |M|^2 of a step on so many questions. C, A and B are means over pairs, U-statistics of order
    2. The gain is C / sqrt(B), the cosine C / sqrt(A B). The gain's variance is that of the
    delete-one jackknife. Its interval has Student's t or, where that reaches farther, the one with
    the questions' skewness; of the cosine see `_cosine_ends`.

    Args:
        grams: of the method.
        step: questions of the step.
        level: coverage.
    """
    count = len(grams.cross_QQ)
    unknown_Q = np.full(count, np.nan)
    nothing = UpdateEstimate(UNKNOWN, UNKNOWN, unknown_Q, unknown_Q)
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
        return UpdateEstimate(RatioSet(value, *ends), RatioSet(gain, *ends), unknown_Q, unknown_Q)
    scale = 2.0 * (count - 1) / (count * (count - 2))
    length_Q = 0.5 * gain * method_Q / method
    influence_Q = scale * (cross_Q / root - length_Q)
    own_Q = (grams.cross_QQ.sum(axis=0) - np.diag(grams.cross_QQ)) / (count - 1) - cross
    training_Q = scale * (0.5 * own_Q / root - length_Q)
    below, above = farther_reaches(influence_Q, level)
    se = math.sqrt(count / (count - 1) * float(influence_Q @ influence_Q))
    cosine = UNKNOWN
    if ideal > 0:
        means = _Means(np.array([cross, ideal, method]), np.stack([cross_Q, ideal_Q, method_Q]),
                       _covariances(pairs))  # fmt: skip
        cosine = RatioSet(cross / math.sqrt(ideal * method), *_cosine_ends(means, level))
    found = RatioSet(gain, gain - above * se, gain + below * se)
    return UpdateEstimate(cosine, found, influence_Q, training_Q)


@dataclass(frozen=True, eq=False)
class _Means:
    """C, A and B of `update_estimate`.

    Attributes:
        mean_K: themselves, [3].
        own_KQ: questions' own means less them, [3, Q].
        covariance_KK: of the means, [3, 3].
    """

    mean_K: Floats
    own_KQ: Floats
    covariance_KK: Floats

    def ends(
        self, numerator: tuple[float, Floats], denominator: tuple[float, Floats],
        reaches: tuple[float, float],
    ) -> tuple[float, float]:  # fmt: skip
        """Return the ends of Fieller's set of a ratio of two functions of the means.

        Args:
            numerator: its value, and its derivative by the means, [3].
            denominator: likewise.
            reaches: how far below and above 0 t may be.
        """
        (top, by_top_K), (bottom, by_bottom_K) = numerator, denominator
        variances = (
            float(by_top_K @ self.covariance_KK @ by_top_K),
            float(by_top_K @ self.covariance_KK @ by_bottom_K),
            float(by_bottom_K @ self.covariance_KK @ by_bottom_K),
        )
        below, above = reaches
        low, _ = fieller_set(top, bottom, variances, above)
        _, high = fieller_set(top, bottom, variances, below)
        return low, high


def _cosine_ends(means: _Means, level: float) -> tuple[float, float]:
    """Return the ends of the set of C / sqrt(A B).

    They are those of Fieller's set with sqrt(A B) to first order, but for the one nearer to 0: A
    is small and noisy, and where it came out too small the set is too far from 0. That end is as
    near to 0 as the set of C |C| / (A B) = r |r| has it, in which A B is no root, with the
    skewness of the questions; the sign is that of the first set (chosen by coverage,
    `benchmarks/weights_truth.py`).
    """
    cross, ideal, method = (float(mean) for mean in means.mean_K)
    of_cross_K, of_square_K = np.array([1.0, 0.0, 0.0]), np.array([0.0, method, ideal])
    square = ideal * method
    length = math.sqrt(square)
    quantile = float(stdtrit(means.own_KQ.shape[1] - 1, (1.0 + level) / 2))
    low, high = means.ends(
        (cross, of_cross_K), (length, of_square_K / (2.0 * length)), (quantile, quantile)
    )
    power, of_power_K = cross * abs(cross), 2.0 * abs(cross) * of_cross_K
    residual_K = of_power_K - power / square * of_square_K
    reaches = farther_reaches(residual_K @ means.own_KQ, level)
    near, far = (
        math.copysign(math.sqrt(abs(end)), end)
        for end in means.ends((power, of_power_K), (square, of_square_K), reaches)
    )
    if low > 0:
        low = max(0.0, min(low, near))
    if high < 0:
        high = min(0.0, max(high, far))
    return low, high


def _covariances(kernels: Sequence[Floats]) -> Floats:
    """Return unbiased covariances of means over pairs of different questions, [K, K].

    E[X] E[Y] is estimated by the mean of x_qp y_rs over four different questions, in closed form.
    The delete-one jackknife counts the part that is of pairs alone about twice, which is most
    where questions are few. What is estimated below 0 is 0. Three questions have the jackknife.

    Args:
        kernels: symmetric, each [Q, Q]; diagonals are not looked at.
    """
    count = len(kernels[0])
    off = [gram_QQ - np.diag(np.diag(gram_QQ)) for gram_QQ in kernels]
    row_KQ = np.stack([gram_QQ.sum(axis=1) for gram_QQ in off])
    total_K = row_KQ.sum(axis=1)
    own_KQ = (row_KQ - total_K[:, None] / count) / (count - 1)
    factor = 4.0 * (count - 1) / (count * (count - 2) ** 2)
    jackknife_KK = factor * own_KQ @ own_KQ.T
    if count < 4:
        return np.asarray(jackknife_KK, dtype=np.float64)
    pairs_KK = np.array([[float((one * other).sum()) for other in off] for one in off])
    apart_KK = np.outer(total_K, total_K) - 4.0 * row_KQ @ row_KQ.T + 2.0 * pairs_KK
    chosen = count * (count - 1)
    mean_KK = apart_KK / (chosen * (count - 2) * (count - 3))
    covariance_KK = np.outer(total_K, total_K) / chosen**2 - mean_KK
    size_K = np.sqrt(np.diag(jackknife_KK))
    size_K[size_K == 0] = 1.0
    values_K, vectors_KK = np.linalg.eigh(covariance_KK / np.outer(size_K, size_K))
    kept_KK = (vectors_KK * np.maximum(values_K, 0.0)) @ vectors_KK.T
    return np.asarray(kept_KK * np.outer(size_K, size_K), dtype=np.float64)


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


def share_of_shared(
    gram_QQ: Floats, own_Q: Floats, *, level: float = 0.95
) -> tuple[RatioSet, Floats]:
    """Return which share of an update the questions have in common, s / (s + v_q), and influences.

    s is the mean of the Gram matrix over pairs of different questions, s + v_q the mean squared
    length of a question's expected update: 1 where every question asks for the same, 0 where what
    one asks for says nothing about the next. s is unbiased, so that the ratio may be below 0. The
    set is Fieller's, with the covariances of the delete-one jackknife.

    Args:
        gram_QQ: inner products of the questions' updates, [Q, Q]; the diagonal is not looked at.
        own_Q: squared length of each question's expected update, [Q]; NaN where it is not known,
            and then there is no share.
        level: coverage.

    Returns:
        The share; and how far each question moves it, [Q], as in `UpdateEstimate`.
    """
    count = len(own_Q)
    nothing = UNKNOWN, np.full(count, np.nan)
    if count < 3 or np.isnan(own_Q).any():
        return nothing
    shared, shared_Q = mean_of_shared(gram_QQ)
    whole = float(own_Q.mean())
    whole_Q = (own_Q - whole) / count
    if not whole > 0:
        return nothing
    share = shared.value / whole
    factor = count / (count - 1)
    variances = (
        factor * float(shared_Q @ shared_Q),
        factor * float(shared_Q @ whole_Q),
        factor * float(whole_Q @ whole_Q),
    )
    reach = float(stdtrit(count - 1, (1.0 + level) / 2))
    ends = fieller_set(shared.value, whole, variances, reach)
    return RatioSet(share, *ends), (shared_Q - share * whole_Q) / whole


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
