"""One arm against the ideal gradient at every node of a view, a sum of arms by its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.alignment import NodeSums, cosine, cross_fit, node_sums
from gradalign.alignment.ideal import ideal_gradient, unbiased_norm2
from gradalign.alignment.scores import FLAT
from gradalign.analysis.joint import JointView
from gradalign.analysis.node_views import Bools, Floats, NodeTable, NodeView, ShardViews
from gradalign.analysis.whole import WholeDirection
from gradalign.estimates import Arm
from gradalign.methods import Method, Mixture

Reasons = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Found:
    """A method's directions at the nodes of a view.

    Attributes:
        whole: the expected one, from all continuations.
        halves: the same from each half of them; none for methods that use no continuations, and
            for the ideal gradient, whose halves are those of the values.
        reason_N: why a node has none, "" where it has one.
        sampled: the direction for the drawn token alone; None where that is not asked for.
        variance_ratio_N: of that, NaN likewise.
        multiple: how many times the ideal gradient it is; None for any other.
    """

    whole: WholeDirection
    halves: tuple[WholeDirection, ...]
    reason_N: Reasons
    sampled: WholeDirection | None
    variance_ratio_N: Floats
    multiple: float | None

    @classmethod
    def of(cls, method: Method, view: NodeView, *, drawn: bool = True) -> Found:
        """Compute a method's directions at the nodes of a view, also for the token that was drawn.

        Args:
            method: the method.
            view: the nodes.
            drawn: whether the drawn token is of interest.
        """
        direction = method.direction(view.batch)
        halves: tuple[WholeDirection, ...] = ()
        if method.uses_continuations and method.ideal_multiple is None:
            parts = (method.ascent(view.batch.half(h)) for h in (0, 1))
            halves = tuple(WholeDirection.of(part_NS, view) for part_NS in parts)
        return cls(
            WholeDirection.of(direction.ascent_NS, view),
            halves,
            direction.reason_N,
            WholeDirection.of(method.ascent(view.batch, "sampled"), view) if drawn else None,
            method.variance_ratio(view.batch) if drawn else np.full(len(view.rows), np.nan),
            method.ideal_multiple,
        )

    def moved(self, joint: JointView, label: str) -> Found:
        """Return the same on the joint support of several teachers."""
        return replace(
            self,
            whole=joint.of(self.whole, label),
            halves=tuple(joint.of(half, label) for half in self.halves),
            sampled=None if self.sampled is None else joint.of(self.sampled, label),
            reason_N=self.reason_N[joint.rows_of(label)],
            variance_ratio_N=self.variance_ratio_N[joint.rows_of(label)],
        )


@dataclass(frozen=True)
class NodeScores:
    """One arm at every node of a view.

    Attributes:
        whole: its expected direction, from all continuations.
        halves: the same from each half of them; none for methods that use no continuations.
        multiple: how many times the ideal gradient it is; None for any other.
        others: columns of the table `alignment`, [N].
    """

    whole: WholeDirection
    halves: tuple[WholeDirection, ...]
    multiple: float | None
    cosine: Floats
    reason: Reasons
    dot: Floats
    dot_bound: Floats
    ideal_norm2: Floats
    method_norm2: Floats
    norm_on_support: Floats
    sampled_cosine: Floats
    sampled_variance_ratio: Floats

    def product(self, other: NodeScores) -> Floats:
        """Inner product of two arms' directions, without the noise that both share, [N].

        With the ideal gradient it is the other's unbiased dot. Two arms that are measured from
        continuations meet in different halves only.
        """
        if other is self:
            return self.method_norm2
        if self.multiple is not None:
            return self.multiple * other.dot
        if other.multiple is not None:
            return other.multiple * self.dot
        if self.halves and other.halves:
            ways = [self.halves[h].product(other.halves[1 - h]) for h in (0, 1)]
            return 0.5 * (ways[0] + ways[1])
        return self.whole.product(other.whole)


def score_arm(views: ShardViews, arm: Arm) -> tuple[NodeView, NodeScores]:
    """Compare an arm with the ideal gradient, and return the nodes where that is done.

    A sum of methods of several teachers is taken at the nodes that all of them were shown.
    """
    nodes, method = views.nodes, methods.get(arm.method)
    if isinstance(method, Mixture) and method.teachers:
        return _score_joint(views, method)
    view = views.teacher(arm.teacher) if arm.teacher else views.student
    return view, score_nodes(nodes, view, method)


def score_nodes(nodes: NodeTable, view: NodeView, method: Method) -> NodeScores:
    """Compare one method with the ideal gradient at every node of a view.

    Both are directions on the whole vocabulary. The ideal one is known on the candidates C, where
    it is P(C) times that of the student conditioned on C; outside it is at most P_j and taken as
    0. A method pays for what it does outside all the same: its length is that of the whole
    direction.
    """
    if isinstance(method, Mixture):
        parts = [score_nodes(nodes, view, part.method) for part in method.parts]
        found = mixed(nodes, view, [part.coefficient for part in method.parts], parts)
        sampled = WholeDirection.of(method.ascent(view.batch, "sampled"), view)
        return replace(
            found,
            sampled_cosine=_sampled_cosine(sampled, nodes, view),
            sampled_variance_ratio=method.variance_ratio(view.batch),
        )
    return score(nodes, view, Found.of(method, view))


def _score_joint(views: ShardViews, method: Mixture) -> tuple[NodeView, NodeScores]:
    """Score a sum whose parts name their teachers; of the drawn token nothing is said."""
    nodes = views.nodes
    own: Mapping[str, NodeView] = {label: views.teacher(label) for label in method.teachers}
    joint = JointView(nodes, own)
    parts = []
    for part in method.parts:
        label = part.teacher or method.teachers[0]
        found = Found.of(part.method, own[label], drawn=False).moved(joint, label)
        parts.append(score(nodes, joint.view, found))
    return joint.view, mixed(nodes, joint.view, [p.coefficient for p in method.parts], parts)


def score(nodes: NodeTable, view: NodeView, found: Found) -> NodeScores:
    """Compare directions with the ideal gradient; see `score_nodes`."""
    at, mask_NC, whole = view.rows, view.mask_NC, found.whole
    prob_NC, value_NC, var_NC = nodes.prob_NC[at], nodes.value_NC[at], nodes.var_NC[at]
    mass_N = np.where(mask_NC, prob_NC, 0.0).sum(axis=1)
    ideal_NC = ideal_gradient(prob_NC, value_NC, mask_NC)
    flat_N = cosine(ideal_NC, ideal_NC).reason_N == FLAT
    if found.multiple is not None:
        return _multiple(found, nodes, view, ideal_NC, flat_N)
    if found.halves:
        sums, cosine_N = _cross_fitted(nodes, view, found.halves)
    else:
        sums = node_sums(prob_NC, value_NC, var_NC, whole.inside_NC, mask_NC)
        sums = replace(sums, method_norm2_N=whole.norm2_N)
        cosine_N = whole.cosine(ideal_NC)
    reason_N = _reasons(found.reason_N, whole, flat_N, cosine_N)
    return NodeScores(
        whole=whole,
        halves=found.halves,
        multiple=None,
        cosine=np.where(reason_N == "", cosine_N, np.nan),
        reason=reason_N,
        dot=mass_N * sums.dot_N,
        dot_bound=whole.dot_bound(prob_NC),
        ideal_norm2=mass_N**2 * sums.ideal_norm2_N,
        method_norm2=sums.method_norm2_N,
        norm_on_support=whole.share_inside_N,
        sampled_cosine=_sampled_cosine(found.sampled, nodes, view),
        sampled_variance_ratio=found.variance_ratio_N,
    )


def mixed(
    nodes: NodeTable, view: NodeView, coefficients: Sequence[float], parts: Sequence[NodeScores]
) -> NodeScores:
    """Score a sum of arms from their own scores, all at the nodes of one view.

    Its dot is the sum of theirs, its squared length that of their Gram matrix: so a coefficient of
    0 leaves the other arm as it is. |g*|^2 is the first's, whose noise may be another's.
    """
    used = [(c, part) for c, part in zip(coefficients, parts, strict=True) if c]
    used = used or [(0.0, parts[0])]

    def total(direction: Sequence[WholeDirection]) -> WholeDirection:
        ascent_NS = np.zeros(view.batch.log_p_NS.shape)
        for (c, _), one in zip(used, direction, strict=True):
            ascent_NS += c * one.ascent_NS
        return WholeDirection(ascent_NS, view)

    whole = total([part.whole for _, part in used])
    halves: tuple[WholeDirection, ...] = ()
    if any(part.halves for _, part in used):
        halves = tuple(
            total([part.halves[h] if part.halves else part.whole for _, part in used])
            for h in (0, 1)
        )
    norm2_N = sum((a * b * one.product(two) for a, one in used for b, two in used), np.zeros(1))
    first = used[0][1]
    ideal_NC = ideal_gradient(nodes.prob_NC[view.rows], nodes.value_NC[view.rows], view.mask_NC)
    flat_N = cosine(ideal_NC, ideal_NC).reason_N == FLAT
    if len(used) == 1:
        cosine_N = math.copysign(1.0, used[0][0]) * first.cosine
    elif halves:
        cosine_N = _half_cosines(nodes, view, halves)
    else:
        cosine_N = whole.cosine(ideal_NC)
    none_N = np.all([part.reason != "" for _, part in used], axis=0)
    reason_N = _reasons(np.where(none_N, first.reason, ""), whole, flat_N, cosine_N)
    return NodeScores(
        whole=whole,
        halves=halves,
        multiple=None,
        cosine=np.where(reason_N == "", cosine_N, np.nan),
        reason=reason_N,
        dot=sum((c * part.dot for c, part in used), np.zeros(1)),
        dot_bound=sum((abs(c) * part.dot_bound for c, part in used), np.zeros(1)),
        ideal_norm2=first.ideal_norm2,
        method_norm2=norm2_N,
        norm_on_support=whole.share_inside_N,
        sampled_cosine=np.full(len(view.rows), np.nan),
        sampled_variance_ratio=np.full(len(view.rows), np.nan),
    )


def _multiple(
    found: Found, nodes: NodeTable, view: NodeView, ideal_NC: Floats, flat_N: Bools
) -> NodeScores:
    """Score a method that is the ideal gradient times a factor.

    It is measured from the same rollouts. By this identity its noise leaves all three sums alike,
    where estimates of their own would each have another.
    """
    at, mask_NC, factor = view.rows, view.mask_NC, float(found.multiple or 0.0)
    prob_NC = nodes.prob_NC[at]
    mass_N = np.where(mask_NC, prob_NC, 0.0).sum(axis=1)
    norm2_N = mass_N**2 * unbiased_norm2(prob_NC, nodes.value_NC[at], nodes.var_NC[at], mask_NC)

    def direction(ideal_NC: Floats) -> WholeDirection:
        return WholeDirection.of_candidates(factor * mass_N[:, None] * ideal_NC, view)

    v_HNC, both_NC = half_values(nodes, view)
    reason_N = np.where(flat_N, FLAT, "").astype(object)
    return NodeScores(
        whole=direction(ideal_NC),
        halves=tuple(direction(ideal_gradient(prob_NC, v_NC, both_NC)) for v_NC in v_HNC),
        multiple=factor,
        cosine=np.where(flat_N, np.nan, 1.0),
        reason=reason_N,
        dot=factor * norm2_N,
        dot_bound=np.zeros(len(at)),
        ideal_norm2=norm2_N,
        method_norm2=factor**2 * norm2_N,
        norm_on_support=np.where(flat_N, np.nan, 1.0),
        sampled_cosine=_sampled_cosine(found.sampled, nodes, view),
        sampled_variance_ratio=found.variance_ratio_N,
    )


def half_values(nodes: NodeTable, view: NodeView) -> tuple[Floats, Bools]:
    """Return V from each half, 0 where it is not known, [2, N, C]; and where both are, [N, C]."""
    half_HNC = nodes.half_value_HNC[:, view.rows]
    both_NC = view.mask_NC & np.isfinite(half_HNC).all(axis=0)
    return np.where(both_NC, half_HNC, 0.0), both_NC


def _cross_fitted(
    nodes: NodeTable, view: NodeView, halves: tuple[WholeDirection, ...]
) -> tuple[NodeSums, Floats]:
    """Return sums and cosines of a method that is measured from continuations.

    All three sums are products of one pair of halves: the direction and the ideal gradient that
    one half gives never meet each other.
    """
    prob_NC = nodes.prob_NC[view.rows]
    v_HNC, both_NC = half_values(nodes, view)
    m_HNC = np.where(both_NC, np.stack([half.inside_NC for half in halves]), 0.0)
    sums = cross_fit(prob_NC, v_HNC, m_HNC, both_NC)
    sums = replace(sums, method_norm2_N=halves[0].product(halves[1]))
    return sums, _half_cosines(nodes, view, halves)


def _half_cosines(nodes: NodeTable, view: NodeView, halves: tuple[WholeDirection, ...]) -> Floats:
    """Return the cosine of one half's direction with the other's ideal gradient, [N]."""
    v_HNC, both_NC = half_values(nodes, view)
    g_HNC = [ideal_gradient(nodes.prob_NC[view.rows], v_NC, both_NC) for v_NC in v_HNC]
    return 0.5 * (halves[1].cosine(g_HNC[0]) + halves[0].cosine(g_HNC[1]))


def _reasons(known_N: Reasons, whole: WholeDirection, flat_N: Bools, cosine_N: Floats) -> Reasons:
    """Say why a node has no cosine: flat comes first, then what the method says."""
    reason_N = known_N.astype(object)
    reason_N[(reason_N == "") & ~(whole.norm2_N > 0.0)] = "zero_method:no direction"
    reason_N[(reason_N == "") & np.isnan(cosine_N)] = "flat:one half of the continuations"
    reason_N[flat_N] = FLAT
    return reason_N


def _sampled_cosine(sampled: WholeDirection | None, nodes: NodeTable, view: NodeView) -> Floats:
    """Return the cosine of the direction for the drawn token alone; NaN where g* is flat."""
    at = view.rows
    if sampled is None:
        return np.full(len(at), np.nan)
    ideal_NC = ideal_gradient(nodes.prob_NC[at], nodes.value_NC[at], view.mask_NC)
    flat_N = cosine(ideal_NC, ideal_NC).reason_N == FLAT
    return np.where(flat_N, np.nan, sampled.cosine(ideal_NC))
