"""Inner products of every two arms' directions, question by question: the table `gram`.

All are over the nodes that every teacher of the run was shown, so that any sum of arms has its
alignment from them. The ideal gradient is one of the arms; noise that two estimates share is taken
out of every product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradalign import methods
from gradalign.alignment.gram import PAIR, chosen_sums
from gradalign.alignment.ideal import ideal_gradient
from gradalign.alignment.scores import POOLING
from gradalign.analysis.align import NO_TEACHER, arms_of, question_ids
from gradalign.analysis.joint import JointView
from gradalign.analysis.node_views import Bools, Floats, ShardViews
from gradalign.analysis.scoring import Found, NodeScores, half_values, score
from gradalign.estimates import Arm
from gradalign.methods import BestMixture, Mixture
from gradalign.stages.base import Run
from gradalign.stages.weights.gradients import IDEAL
from gradalign.store.table_builder import Rows

TABLE = "gram"
IDEAL_ARM = Arm(NO_TEACHER, IDEAL)


@dataclass(frozen=True)
class GramTable:
    """Write the inner products of every two arms, summed over the nodes of a question."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's products are there, for every arm."""
        if not run.folder.has_table(TABLE, shard):
            return False
        table = run.folder.read_table(TABLE, shard)
        if not len(table):
            return True
        known = set(zip(*(table[name].to_pylist() for name in SECOND), strict=True))
        return set(map(tuple, _single_arms(run))) <= known

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
        rows = Rows(TABLE)
        arms = _single_arms(run)
        own = {teacher.label: views.teacher(teacher.label) for teacher in run.teachers}
        joint = JointView(nodes, own or {NO_TEACHER: views.student})
        at = joint.view.rows
        scored = {arm: _scored(views, joint, arm) for arm in arms}
        question_N = np.array(nodes.ids("question_id"), dtype=object)[at]
        questions, number_N = np.unique(question_N.astype(str), return_inverse=True)
        weight_N = 1.0 / nodes.column("inclusion_prob")[at]
        if run.config.mask_special:
            weight_N = weight_N * ~nodes.column("special")[at].astype(np.bool_)

        def total(value_N: Floats) -> Floats:
            return np.asarray(
                np.bincount(number_N, weights=value_N, minlength=len(questions)), dtype=np.float64
            )

        def add(one: Arm, two: Arm, product_N: Floats, halves: Sequence[Floats] = ()) -> None:
            terms_N = weight_N * product_N
            nothing_Q = np.full(len(questions), np.nan)
            half_HQ = [total(weight_N * half_N) for half_N in halves] or [nothing_Q, nothing_Q]
            rows.add(
                len(questions),
                question_id=questions.tolist(),
                first_teacher=one.teacher,
                first_method=one.method,
                second_teacher=two.teacher,
                second_method=two.method,
                product=total(terms_N),
                size=total(np.abs(terms_N)),
                opposed=total(weight_N * (product_N < 0.0)),
                weight=total(weight_N * (product_N != 0.0)),
                half0=half_HQ[0],
                half1=half_HQ[1],
            )

        for i, one in enumerate(arms):
            if not i:
                add(IDEAL_ARM, IDEAL_ARM, scored[one].ideal_norm2)
            add(IDEAL_ARM, one, scored[one].dot, _half_dots(views, joint, scored[one]))
            for two in arms[i:]:
                add(one, two, scored[one].product(scored[two]))
        run.folder.write_table(TABLE, views.shard, rows.table_of())
        return Counter(products=len(arms) ** 2 * len(at))


SECOND = ("second_teacher", "second_method")
FIRST = ("first_teacher", "first_method")


def _single_arms(run: Run) -> list[Arm]:
    """Return the arms that are no sums: those of the run, and the parts of its sums."""
    found = [arm for arm in arms_of(run) if not isinstance(methods.get(arm.method), Mixture)]
    labels = [teacher.label for teacher in run.teachers]
    for spec in run.config.methods:
        method = methods.get(spec)
        if isinstance(method, Mixture | BestMixture):
            for label in labels if method.of_teacher else [NO_TEACHER]:
                found += parts_of(method, label)
    return list(dict.fromkeys(found))


def parts_of(method: Mixture | BestMixture, label: str) -> list[Arm]:
    """Return the arms that a sum is made of.

    Args:
        method: the sum.
        label: the teacher it is scored under, if its parts name none.
    """
    return [
        Arm(part.teacher or (label if part.method.of_teacher else NO_TEACHER), part.method.spec)
        for part in method.parts
    ]


def _scored(views: ShardViews, joint: JointView, arm: Arm) -> NodeScores:
    """Score an arm on the joint support."""
    label = arm.teacher or next(iter(joint.labels))
    view = views.student if label == NO_TEACHER else views.teacher(label)
    found = Found.of(methods.get(arm.method), view, drawn=False)
    return score(views.nodes, joint.view, found.moved(joint, label))


def _half_dots(views: ShardViews, joint: JointView, arm: NodeScores) -> list[Floats]:
    """Return <g*, m> with g* from one half of the continuations and m from the other, [N] each."""
    nodes, view = views.nodes, joint.view
    prob_NC = nodes.prob_NC[view.rows]
    mass_N = np.where(view.mask_NC, prob_NC, 0.0).sum(axis=1)
    v_HNC, both_NC = half_values(nodes, view)
    dots = []
    for h in (0, 1):
        ideal_NC = ideal_gradient(prob_NC, v_HNC[h], both_NC)
        other = arm.halves[1 - h] if arm.halves else arm.whole
        dots.append(mass_N * np.vecdot(ideal_NC, np.where(both_NC, other.inside_NC, 0.0)))
    return dots


@dataclass(frozen=True)
class Grams:
    """The table of a run: products by question and pair of arms.

    Attributes:
        questions: ids, in the order of the tables.
        entries: per pair of arms, [Q, 6]: product, size, opposed, weight, half0, half1.
    """

    questions: list[str]
    entries: Mapping[tuple[Arm, Arm], Floats]

    def of(self, one: Arm, two: Arm) -> Floats:
        """Return a pair's columns, whichever way round it is stored, [Q, 6]."""
        found = self.entries.get((one, two))
        return self.entries[two, one] if found is None else found

    def has(self, *arms: Arm) -> bool:
        """Whether the table knows all of some arms."""
        return all((IDEAL_ARM, arm) in self.entries for arm in arms)

    def pair(self, one: Arm, two: Arm) -> Floats:
        """Return the sums of a mixture of two arms by question, [Q, PAIR]."""
        ideal = self.of(IDEAL_ARM, IDEAL_ARM)
        n11, n22 = self.of(one, one), self.of(two, two)
        columns = [
            self.of(IDEAL_ARM, one)[:, 0],
            self.of(IDEAL_ARM, two)[:, 0],
            n11[:, 0],
            self.of(one, two)[:, 0],
            n22[:, 0],
            ideal[:, 0],
            ideal[:, 1],
            n11[:, 1],
            n22[:, 1],
        ]
        assert len(columns) == PAIR
        return np.stack(columns, axis=1)


def read_grams(run: Run, shards: Sequence[str] | None = None) -> Grams:
    """Read the table of some shards, all of them by default; a shard without it adds nothing."""
    questions: dict[str, int] = {}
    rows: dict[tuple[Arm, Arm], dict[int, list[float]]] = {}
    for shard in shards or run.shards():
        if not run.folder.has_table(TABLE, shard):
            continue
        table = run.folder.read_table(TABLE, shard)
        names = ("question_id", *FIRST, *SECOND, *NUMBERS)
        for question, *arms, a, b, c, d, e, f in zip(
            *(table[name].to_pylist() for name in names), strict=True
        ):
            number = questions.setdefault(str(question), len(questions))
            pair = (Arm(*map(str, arms[:2])), Arm(*map(str, arms[2:])))
            numbers = [np.nan if value is None else value for value in (a, b, c, d, e, f)]
            rows.setdefault(pair, {})[number] = numbers
    entries = {}
    for pair, by_question in rows.items():
        columns_QY = np.zeros((len(questions), len(NUMBERS)))
        columns_QY[list(by_question)] = list(by_question.values())
        entries[pair] = columns_QY
    return Grams(list(questions), entries)


NUMBERS = ("product", "size", "opposed", "weight", "half0", "half1")


def best_arms(run: Run) -> Iterator[tuple[Arm, BestMixture, list[Arm]]]:
    """Yield every arm of `mix:best`, its method, and the two arms that it weighs."""
    labels = [teacher.label for teacher in run.teachers]
    for spec in run.config.methods:
        method = methods.get(spec)
        if isinstance(method, BestMixture):
            for label in labels if method.of_teacher else [NO_TEACHER]:
                yield Arm(label, method.spec), method, parts_of(method, label)


def in_second_half(run: Run, questions: Sequence[str]) -> Bools:
    """Return which questions are of the second half: every other one of the run, [Q]."""
    place = {question: number for number, question in enumerate(question_ids(run))}
    return np.array([place[question] % 2 == 1 for question in questions], dtype=np.bool_)


def crossed_sums(pair_QY: Floats, second_Q: Bools) -> Floats:
    """Return each question's pooled sums under the coefficient of the other half, [Q, POOLING].

    Args:
        pair_QY: sums of the pair.
        second_Q: which questions are of the second half.
    """
    found_QY = np.zeros((len(pair_QY), POOLING))
    for own_Q in (second_Q, ~second_Q):
        found_QY[own_Q] = chosen_sums(pair_QY[own_Q], pair_QY[~own_Q].sum(axis=0))
    return found_QY
