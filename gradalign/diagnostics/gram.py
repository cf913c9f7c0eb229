"""Teachers against each other: where they contradict, which for which question, and mixtures.

All from the table `gram`: inner products of every two arms' directions, and of each with the ideal
gradient, over the nodes that every teacher was shown. Controls are left out.

| figure | what it is |
| --- | --- |
| cosine | of two teachers' directions under one method, all nodes as one vector |
| opposed_share | share of the nodes where they point away from each other |
| routed | pooled alignment where each question goes to the teacher that suits it best |
| routing_gain | that less the best single teacher's |
| routed_share | share of the questions that a teacher suits best |
| route | of each such question, a split of its own: the teacher's pooled alignment there |
| best_share | share c / (1 + c) of the second in the best mixture m_1 + c m_2 of two arms |
| best_alignment | its alignment, with the coefficient that the other half of the questions chose |
| mixture_gain | that less the better one's of the two arms |
| alignment | of the mixture at fixed coefficients, for a curve |
| weights_gain | gain per step of the weights at fixed coefficients (`--alignment weights`) |

The teacher of a question is chosen by one half of its continuations and judged by the other, both
ways round, so that luck in choosing is no gain. Every pair of teachers makes a mixture under each
method; with one teacher, so do the first two methods that look at it, and every `mix:best`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from gradalign import methods
from gradalign.alignment import pooled_of_sums
from gradalign.alignment.gram import (
    GRID,
    PAIR,
    crossed_alignment,
    mixture_alignment,
    share_of_second,
)
from gradalign.alignment.scores import POOLING
from gradalign.alignment.weights import UpdateGrams, update_estimate
from gradalign.analysis.gram import (
    IDEAL_ARM,
    NUMBERS,
    TABLE,
    Grams,
    GramTable,
    best_arms,
    in_second_half,
    read_grams,
)
from gradalign.analysis.node_views import Floats
from gradalign.analysis.weights import QuestionUpdates, weight_grams
from gradalign.contexts import parse_any
from gradalign.diagnostics.base import SMALL, Advice, Consequence, Diagnostic, Figures
from gradalign.diagnostics.collector import Collector, Figure, FigureKey
from gradalign.estimates import Arm, Estimate
from gradalign.methods import Mixture
from gradalign.stages.base import Run
from gradalign.store.splits import QUESTION

MECHANISM = "gram"
ALL = "all"


class Pair(NamedTuple):
    """Two arms that a mixture is made of, and how it is called."""

    first: Arm
    second: Arm

    @property
    def teacher(self) -> str:
        """Under which teacher its figures stand: that of both, or of none in particular."""
        return self.first.teacher if self.first.teacher == self.second.teacher else ""

    @property
    def label(self) -> str:
        """METHOD+c*METHOD, with teachers where they differ."""
        if self.teacher:
            return f"{self.first.method}+c*{self.second.method}"
        return f"{self.first}+c*{self.second}"


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add a shard's questions to every figure."""
    if not run.folder.has_table(TABLE, shard):
        return
    grams = read_grams(run, [shard])
    if not grams.questions:
        return
    question_Q = np.array(grams.questions, dtype=object)
    splits = {ALL: np.ones(len(question_Q), dtype=np.bool_)}
    second = in_second_half(run, grams.questions)[:, None]
    for pair in pairs(run, grams):
        sums_QY = grams.pair(pair.first, pair.second)
        halves_QY = np.concatenate([sums_QY * ~second, sums_QY * second], axis=1)
        both_QY = np.concatenate([halves_QY, sums_QY], axis=1)
        for name, statistic, columns_QY in (
            ("best_share", share_of_second, sums_QY),
            ("best_alignment", crossed_alignment, halves_QY),
            ("mixture_gain", _mixture_gain, both_QY),
        ):
            key = FigureKey(MECHANISM, pair.teacher, name, pair.label)
            into.add(key, statistic, question_Q, columns_QY, splits)
        for c in (*GRID, np.inf):
            key = FigureKey(MECHANISM, pair.teacher, "alignment", f"{pair.label} at {c:g}")
            statistic = partial(mixture_alignment, coefficient=c)
            into.add(key, statistic, question_Q, sums_QY, splits)
    for method, arms in _by_method(run, grams).items():
        for one, two in itertools.combinations(arms, 2):
            _add_conflict(into, grams, one, two, question_Q)
        if len(arms) > 1:
            columns_QY = np.concatenate([_routed(grams, arms), *_own(grams, arms)], axis=1)
            for name, statistic in (("routed", _first_pooled), ("routing_gain", _routing_gain)):
                key = FigureKey(MECHANISM, "", name, method)
                into.add(key, statistic, question_Q, columns_QY, splits)
            _add_routes(into, grams, method, arms)


def pairs(run: Run, grams: Grams) -> Iterator[Pair]:
    """Yield every two arms whose mixture is looked at."""
    found: dict[Pair, None] = {}
    by_method = _by_method(run, grams)
    for arms in by_method.values():
        for one, two in itertools.combinations(arms, 2):
            found[Pair(one, two)] = None
    first_two = list(by_method)[:2]
    if len(first_two) == 2:
        for one, two in zip(*(by_method[method] for method in first_two), strict=False):
            if one.teacher == two.teacher:
                found[Pair(one, two)] = None
    for _, _, (one, two) in best_arms(run):
        if grams.has(one, two) and one.teacher not in _controls(run):
            found[Pair(one, two)] = None
    yield from found


def _by_method(run: Run, grams: Grams) -> dict[str, list[Arm]]:
    """Return the arms of every method that looks at a teacher, controls left out."""
    found: dict[str, list[Arm]] = {}
    for spec in run.config.methods:
        method = methods.get(spec)
        if isinstance(method, Mixture) or not method.of_teacher:
            continue
        arms = [
            Arm(teacher.label, method.spec)
            for teacher in run.teachers
            if teacher.label not in _controls(run)
        ]
        known = [arm for arm in arms if grams.has(arm)]
        if known:
            found[method.spec] = known
    return found


def _controls(run: Run) -> set[str]:
    """Return the labels of the teachers that stand beside those that were asked for."""
    return {parse_any(spec).label for spec in run.resolved.controls}


def _add_conflict(
    into: Collector, grams: Grams, one: Arm, two: Arm, question_Q: np.ndarray
) -> None:
    shared_QY = grams.of(one, two)
    columns_QY = np.stack(
        [shared_QY[:, 0], grams.of(one, one)[:, 0], grams.of(two, two)[:, 0]], axis=1
    )
    splits = {ALL: np.ones(len(question_Q), dtype=np.bool_)}
    variant = f"{one.method}, {two.teacher}"
    key = FigureKey(MECHANISM, one.teacher, "cosine", variant)
    into.add(key, pooled_of_sums, question_Q, columns_QY, splits)
    opposed_Q, weight_Q = (shared_QY[:, NUMBERS.index(name)] for name in ("opposed", "weight"))
    key = FigureKey(MECHANISM, one.teacher, "opposed_share", variant)
    with np.errstate(invalid="ignore", divide="ignore"):
        into.mean(key, question_Q, opposed_Q / weight_Q, splits, weight_Q)


def _own(grams: Grams, arms: Sequence[Arm]) -> list[Floats]:
    """Return each arm's pooled sums, [Q, POOLING] each."""
    ideal_QY = grams.of(IDEAL_ARM, IDEAL_ARM)
    return [
        np.stack(
            [
                grams.of(IDEAL_ARM, arm)[:, 0],
                ideal_QY[:, 0],
                grams.of(arm, arm)[:, 0],
                ideal_QY[:, 1],
                grams.of(arm, arm)[:, 1],
            ],
            axis=1,
        )
        for arm in arms
    ]


def _routed(grams: Grams, arms: Sequence[Arm]) -> Floats:
    """Return the pooled sums where one half of each question's continuations chose the teacher.

    Chosen is the largest gain per length, <g, m> / |m|; the other half's <g, m> counts.
    """
    own_AQY = np.stack(_own(grams, arms))
    at = [NUMBERS.index(name) for name in ("half0", "half1")]
    half_AQH = np.stack([grams.of(IDEAL_ARM, arm)[:, at] for arm in arms])
    length_AQ = np.sqrt(np.maximum(own_AQY[..., 2], 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        gain_AQH = np.where(length_AQ[..., None] > 0.0, half_AQH / length_AQ[..., None], -np.inf)
    columns = []
    rows = np.arange(own_AQY.shape[1])
    for h in (0, 1):
        chosen_Q = np.nan_to_num(gain_AQH[..., h], nan=-np.inf).argmax(axis=0)
        taken_QY = own_AQY[chosen_Q, rows].copy()
        taken_QY[:, 0] = np.nan_to_num(half_AQH[chosen_Q, rows, 1 - h])
        columns.append(taken_QY)
    return np.asarray(0.5 * (columns[0] + columns[1]))


def _add_routes(into: Collector, grams: Grams, method: str, arms: Sequence[Arm]) -> None:
    """Add which questions each teacher suits best, by its gain per length on all continuations."""
    question_Q = np.array(grams.questions, dtype=object)
    everything = {ALL: np.ones(len(question_Q), dtype=np.bool_)}
    own_AQY = np.stack(_own(grams, arms))
    length_AQ = np.sqrt(np.maximum(own_AQY[..., 2], 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        gain_AQ = np.where(length_AQ > 0.0, own_AQY[..., 0] / length_AQ, -np.inf)
    suited_Q = gain_AQ.argmax(axis=0)
    for number, arm in enumerate(arms):
        share_Q = (suited_Q == number).astype(np.float64)
        key = FigureKey(MECHANISM, arm.teacher, "routed_share", method)
        into.mean(key, question_Q, share_Q, everything)
        splits = {
            QUESTION + str(question_Q[q]): question_Q == question_Q[q]
            for q in np.flatnonzero(suited_Q == number)
        }
        key = FigureKey(MECHANISM, arm.teacher, "route", method)
        into.add(key, pooled_of_sums, question_Q, own_AQY[number], splits)


def _first_pooled(sums: Floats) -> Floats:
    return pooled_of_sums(sums[..., :POOLING])


def _routing_gain(sums: Floats) -> Floats:
    """Pooled alignment of the first sums less the best of the others'."""
    others = [
        pooled_of_sums(sums[..., i : i + POOLING]) for i in range(POOLING, sums.shape[-1], POOLING)
    ]
    return np.asarray(_first_pooled(sums) - np.fmax.reduce(others))


def _mixture_gain(sums: Floats) -> Floats:
    """Alignment of the crossed mixture less the better of its two arms."""
    own = sums[..., 2 * PAIR :]
    ends = [mixture_alignment(own, np.zeros(own.shape[:-1])), mixture_alignment(own, np.inf)]
    return np.asarray(crossed_alignment(sums[..., : 2 * PAIR]) - np.fmax(*ends))


def figures(run: Run) -> list[Figure]:
    """Return the gain per step of the weights of the run's mixtures, at fixed coefficients."""
    grams = read_grams(run)
    if "weights" not in run.config.alignment or not grams.questions:
        return []
    updates = {arm: (gram, own) for arm, gram, own in weight_grams(run)}
    found = []
    for pair in pairs(run, grams):
        if pair.first not in updates or pair.second not in updates:
            continue
        for c in GRID:
            mixed = _mixed_updates(updates[pair.first], updates[pair.second], c)
            gain = update_estimate(mixed, step=run.config.weights_batch).gain
            key = FigureKey(MECHANISM, pair.teacher, "weights_gain", f"{pair.label} at {c:g}")
            estimate = Estimate(gain.value, gain.low, gain.high)
            if gain.bounded:
                found.append(Figure(key, ALL, len(mixed.own_Q), estimate))
    return found


def _mixed_updates(
    one: tuple[UpdateGrams, QuestionUpdates], two: tuple[UpdateGrams, QuestionUpdates], c: float
) -> UpdateGrams:
    """Return the Gram matrices of m_1 + c m_2 from both arms' sketches, of length 1 + c less."""
    (first, own_first), (second, own_second) = one, two
    a, b = 1.0 / (1.0 + c), c / (1.0 + c)
    cross_QQ = own_first.sketch_QD @ own_second.sketch_QD.T
    method_QQ = a**2 * first.method_QQ + b**2 * second.method_QQ
    method_QQ = method_QQ + a * b * (cross_QQ + cross_QQ.T)
    own_Q = a**2 * first.own_Q + b**2 * second.own_Q + 2.0 * a * b * np.diag(cross_QQ)
    return UpdateGrams(a * first.cross_QQ + b * second.cross_QQ, first.ideal_QQ, method_QQ, own_Q)


def advise(teacher: str, figures: Figures) -> Mapping[FigureKey, Advice]:
    """Say where two teachers contradict each other, and where routing or a mixture gains."""
    said: dict[FigureKey, Advice] = {}
    for variant, value in figures.variants(MECHANISM, teacher, "cosine").items():
        if value.negative:
            method, _, other = variant.partition(", ")
            said[FigureKey(MECHANISM, teacher, "cosine", variant)] = Advice(
                f"Under {method} it contradicts {other} (cosine {value.value:+.2f}): a student of "
                "both follows neither; send each question to one of them.",
                Consequence.COULD_GAIN,
            )
    for name, text in (
        ("routing_gain", "Under {what}, sending each question to the teacher that suits it gains"),
        ("mixture_gain", "The mixture {what} gains"),
    ):
        for variant, value in figures.variants(MECHANISM, teacher, name).items():
            if value.positive and value.value > SMALL:
                said[FigureKey(MECHANISM, teacher, name, variant)] = Advice(
                    f"{text.format(what=variant)} {value.value:+.2f} alignment over the better "
                    "one alone.",
                    Consequence.COULD_GAIN,
                )
    return said


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (GramTable(),), figures=figures)
