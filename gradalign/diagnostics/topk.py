"""What restricting a reverse KL to the top tokens does to its gradient.

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). The sum over a set S of
P log(P/Q) is not a divergence: its gradient has f_j = 1_S (r_j - 1), so that a token of S is
promoted only if Q_j > e P_j. Detaching the log ratio (f_j = 1_S r_j) or renormalising both
models on S repairs that. Axes: _N nodes, _S support.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradalign import methods
from gradalign.analysis.node_views import Floats, NodeView, ShardViews
from gradalign.diagnostics.base import (
    SMALL,
    Advice,
    Consequence,
    Diagnostic,
    Figures,
    against_ideal,
    counted_rows,
    ideal_columns,
    key_columns,
)
from gradalign.diagnostics.collector import (
    Collector,
    FigureKey,
    pooled_columns,
    pooled_difference,
    questions_of,
    root_ratio,
)
from gradalign.estimates import Estimate
from gradalign.stages.base import Run
from gradalign.store.splits import outcome_splits
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_topk"
FULL = "full"

SIZES = (1, 4, 16, 64)
"""The K that are compared."""

FORMS = {
    "biased": "norm=none",
    "stop_gradient": "norm=none,stop_gradient=true",
    "renorm": "norm=renorm",
}
"""Each form as options of the method `opd`."""

SUPPORT: Literal["intersection"] = "intersection"
"""Whose top tokens make up S: the paper's choice, tokens that are in both models' top K."""


def spec(form: str, k: int) -> str:
    """Return the method of a form and a set size, `opd` itself for the whole vocabulary."""
    return f"opd:top_k={k},support={SUPPORT},{FORMS[form]}" if k else "opd"


@dataclass(frozen=True, eq=False)
class Distortion:
    """How a direction differs from the full one at each node, over the whole vocabulary.

    Attributes:
        cosine_N: cosine of the two, NaN where either is zero.
        norm_ratio_N: |m| / |full|, NaN where the full one is zero.
        distance_N: |m - full| / |full|, NaN where the full one is zero.
        full_norm2_N: |full|^2.
    """

    cosine_N: Floats
    norm_ratio_N: Floats
    distance_N: Floats
    full_norm2_N: Floats


def distortion(
    direction_NS: npt.ArrayLike, full_NS: npt.ArrayLike, num_tail_N: npt.ArrayLike
) -> Distortion:
    """Compare a truncated direction with the full one.

    Directions sum to zero over the vocabulary; what is missing from the sum over the support
    lies on the tail and counts as spread evenly over its tokens.

    Args:
        direction_NS: the truncated direction; NaN rows are read as zero, [N, S].
        full_NS: the full one, likewise, [N, S].
        num_tail_N: number of tokens outside the support, [N].

    Raises:
        ValueError: shapes differ.
    """
    m_NS, full_NS = _finite(direction_NS), _finite(full_NS)
    count_N = np.asarray(num_tail_N, dtype=np.float64)
    if m_NS.shape != full_NS.shape or count_N.shape != m_NS.shape[:1]:
        raise ValueError(
            f"need two directions [N, S] and num_tail [N], got {m_NS.shape}, {full_NS.shape} and "
            f"{count_N.shape}"
        )
    norm_m_N = np.sqrt(_inner(m_NS, m_NS, count_N))
    norm_full_N = np.sqrt(_inner(full_NS, full_NS, count_N))
    gap_NS = m_NS - full_NS
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine_N = _inner(m_NS, full_NS, count_N) / (norm_m_N * norm_full_N)
        ratio_N = norm_m_N / norm_full_N
        distance_N = np.sqrt(_inner(gap_NS, gap_NS, count_N)) / norm_full_N
    there_N = norm_full_N > 0
    return Distortion(
        cosine_N=np.where(there_N & (norm_m_N > 0), np.clip(cosine_N, -1.0, 1.0), np.nan),
        norm_ratio_N=np.where(there_N, ratio_N, np.nan),
        distance_N=np.where(there_N, distance_N, np.nan),
        full_norm2_N=norm_full_N**2,
    )


def _finite(direction_NS: npt.ArrayLike) -> Floats:
    return np.nan_to_num(np.asarray(direction_NS, dtype=np.float64), nan=0.0)


def _inner(first_NS: Floats, second_NS: Floats, count_N: Floats) -> Floats:
    tails_N = first_NS.sum(axis=1) * second_NS.sum(axis=1)
    spread_N = np.where(count_N > 0, tails_N / np.maximum(count_N, 1.0), 0.0)
    return np.asarray((first_NS * second_NS).sum(axis=1) + spread_N)


@dataclass(frozen=True)
class TopKTable:
    """Biased, stop-gradient and renormalised top-k against the full reverse KL."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there."""
        return run.folder.has_table(TABLE, shard)

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
        rows = Rows(TABLE)
        for teacher in run.teachers:
            view = views.teacher(teacher.label)
            at, batch = view.rows, view.batch
            shared = {**key_columns(nodes, at), **ideal_columns(nodes, view)}
            full_NS = methods.get(spec("", 0)).ascent(batch)
            wanted = cases(batch.top_limit)
            for k, form in wanted:
                ascent_NS = full_NS if k == 0 else methods.get(spec(form, k)).ascent(batch)
                changed = distortion(ascent_NS, full_NS, batch.num_tail_N)
                scored = against_ideal(nodes, view, ascent_NS)
                size_N, mass_p_N, mass_q_N = _set(view, k)
                rows.add(
                    len(at),
                    **shared,
                    teacher=teacher.label,
                    k=k,
                    form=form,
                    set_size=size_N,
                    set_mass_student=mass_p_N,
                    set_mass_teacher=mass_q_N,
                    cosine_to_full=changed.cosine_N,
                    norm_ratio=changed.norm_ratio_N,
                    distance=changed.distance_N,
                    full_norm2=changed.full_norm2_N,
                    cosine=scored.cosine,
                    dot=scored.dot,
                    method_norm2=scored.method_norm2,
                )
        run.folder.write_table(TABLE, views.shard, rows.table_of())
        return Counter(compared_nodes=len(nodes.row_of) * len(run.teachers))


def cases(top_limit: int) -> list[tuple[int, str]]:
    """Return (k, form) of what is compared, the full direction first.

    Args:
        top_limit: how many of each model's top tokens were kept; larger k are left out.
    """
    return [(0, FULL), *((k, form) for k in SIZES if k <= top_limit for form in FORMS)]


def _set(view: NodeView, k: int) -> tuple[object, object, object]:
    """Return size and masses of the set, the whole vocabulary for k = 0."""
    dist = view.batch.at(1.0)
    if k == 0:
        ones_N = np.ones(len(view.rows))
        return view.batch.mask_NS.sum(axis=1) + view.batch.num_tail_N, ones_N, ones_N
    inside_NS = dist.top_set(SUPPORT, k)
    return (
        inside_NS.sum(axis=1),
        np.where(inside_NS, dist.p_NS, 0.0).sum(axis=1),
        np.where(inside_NS, dist.q_NS, 0.0).sum(axis=1),
    )


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add what each truncated form does to the direction, and its alignment against the full."""
    if not run.folder.has_table(TABLE, shard):
        return
    frame = counted_rows(run, shard, TABLE)
    for teacher, of_teacher in frame.groupby("teacher", sort=False, observed=True):
        by_case = {
            (int(str(k)), str(form)): part
            for (k, form), part in of_teacher.groupby(["k", "form"], sort=False, observed=True)
        }
        full = by_case[0, "full"]
        for (k, form), part in by_case.items():
            variant = f"k={k},{form}" if k else form
            question, splits = questions_of(part), outcome_splits(part["correct"])
            key = FigureKey("topk", str(teacher), "alignment", variant)
            into.pooled(key, part, splits)
            if form not in FORMS:
                continue
            both = np.column_stack([pooled_columns(part), pooled_columns(full)])
            gain = FigureKey("topk", str(teacher), "alignment_gain", variant)
            into.add(gain, pooled_difference, question, both, splits)
            weight = part["weight"].to_numpy(dtype=np.float64)
            norm2 = weight * part["full_norm2"].to_numpy(dtype=np.float64)
            cosine, ratio, distance = (
                np.nan_to_num(part[name].to_numpy(dtype=np.float64))
                for name in ("cosine_to_full", "norm_ratio", "distance")
            )
            products = np.column_stack([cosine * ratio * norm2, ratio**2 * norm2, norm2])
            key = FigureKey("topk", str(teacher), "cosine_to_full", variant)
            into.add(key, _cosine_of_sums, question, products, {"all": splits["all"]})
            for name, value in (("norm_ratio", ratio), ("distance", distance)):
                squares = np.column_stack([value**2 * norm2, norm2])
                key = FigureKey("topk", str(teacher), name, variant)
                into.add(key, root_ratio, question, squares, {"all": splits["all"]})


def _cosine_of_sums(sums: Floats) -> Floats:
    """Cosine of long vectors from sums (dot, norm2, norm2), [..., 3] -> [...]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2]))


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say it of the full direction, which every form is compared with."""
    full = FigureKey("topk", teacher, "alignment", "full")
    if full not in figures:
        return {}
    gain = _by_case(figures.variants("topk", teacher, "alignment_gain"))
    return {full: topk_advice(gain, _by_case(figures.variants("topk", teacher, "cosine_to_full")))}


def _by_case(variants: Mapping[str, Estimate]) -> dict[tuple[int, str], Estimate]:
    """Turn `k=4,renorm` into (4, "renorm")."""
    found = {}
    for variant, value in variants.items():
        size, _, form = variant.removeprefix("k=").partition(",")
        found[int(size), form] = value
    return found


def topk_advice(
    gain: Mapping[tuple[int, str], Estimate], cosine: Mapping[tuple[int, str], Estimate]
) -> Advice:
    """Say which truncated form to train on.

    Args:
        gain: alignment of each (k, form) less that of the full direction, paired.
        cosine: of each (k, form) with the full direction.
    """
    if not gain:
        return Advice(
            "Too few top tokens were kept to compare truncated losses.", Consequence.NOTHING
        )
    worse = sorted(case for case, value in gain.items() if value.negative)
    safe = sorted(
        case
        for case, value in cosine.items()
        if value.low > 1 - SMALL and case not in worse and case[1] != "biased"
    )
    # Where a repaired form of the same size costs as surely, the size is to blame.
    small = sorted({k for k, form in worse if form != "biased"})
    around = [k for k, form in worse if form == "biased" and cosine[k, form].negative]
    biased = [k for k, form in worse if form == "biased" and k not in {*small, *around}]
    text = ""
    if around:
        text += (
            f"The biased top-k loss turns the update around at k = {', '.join(map(str, around))}: "
            "detach the log ratio or renormalise. "
        )
    if biased:
        text += (
            f"The biased top-k loss costs alignment at k = {', '.join(map(str, biased))}: detach "
            "the log ratio or renormalise. "
        )
    if small:
        text += (
            f"Truncation itself costs alignment at k = {', '.join(map(str, small))}: use a larger "
            "set. "
        )
    if safe:
        k, form = safe[0]
        return Advice(
            f"{text}The cheapest form that stays within 5 % of the full direction: k = {k}, "
            f"{form}.",
            Consequence.CHANGE_LOSS if text else Consequence.COULD_GAIN,
        )
    return Advice(
        f"{text}No truncated form is sure to stay within 5 % of the full direction: use it whole.",
        Consequence.CHANGE_LOSS if text else Consequence.MORE_DATA,
    )


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (TopKTable(),))
