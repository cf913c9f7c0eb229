"""Rank correlations of per-node alignment with everything that is cheaper to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gradalign.alignment import cluster_bootstrap
from gradalign.analysis.node_views import Floats, Ints
from gradalign.diagnostics.base import (
    Advice,
    Consequence,
    Diagnostic,
    Figures,
)
from gradalign.diagnostics.collector import Collector, Figure, FigureKey
from gradalign.diagnostics.overlap import OverlapTable
from gradalign.estimates import UNKNOWN, Estimate
from gradalign.stages.base import Run, teacher_file
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_predictors"
FILE = "all"

MAX_RESAMPLES = 1000
"""Each resample ranks all nodes anew."""

DECIMALS = 9
"""Values that differ by less tie: the cosines of two candidates are +-1 but for rounding, and so
are divergences of equal distributions 0; ranks would order them by accident."""

CHEAP = {
    "overlap_ratio": True,
    "reverse_kl": True,
    "forward_kl": True,
    "student_entropy": True,
    "teacher_entropy": True,
    "student_confidence": True,
    "position": True,
    # Made of the same values as the ideal gradient: it costs the rollouts, and shares their noise.
    "teacher_advantage": False,
}
"""Every predictor, and whether it can be had without targeted rollouts."""


@dataclass(frozen=True)
class Correlation:
    """How one predictor and alignment go together over the nodes of one teacher and method."""

    predictor: str
    estimate: Estimate
    distinct: bool
    num_nodes: int
    num_questions: int

    @property
    def strength(self) -> float:
        """How strong it is, if it can be named the best: cheap, and not 0."""
        usable = CHEAP[self.predictor] and self.distinct
        return abs(self.estimate.value) if usable else -1.0


def correlate_predictors(run: Run) -> None:
    """Write the table of predictors for the whole run."""
    parts = [_nodes_of(run, shard) for shard in run.shards()]
    frame = pd.concat(parts, ignore_index=True)
    rows = Rows(TABLE)
    for (teacher, method), group in frame.groupby(["teacher", "method"], sort=False):
        found = [
            correlate(
                group,
                predictor,
                seed=run.config.seed,
                num_resamples=min(run.config.bootstrap_resamples, MAX_RESAMPLES),
            )
            for predictor in CHEAP
        ]
        best = max(found, key=lambda item: item.strength)
        for item in found:
            rows.add(
                teacher=teacher,
                method=method,
                predictor=item.predictor,
                cheap=CHEAP[item.predictor],
                correlation=item.estimate.value,
                low=item.estimate.low,
                high=item.estimate.high,
                distinct=item.distinct,
                best=item is best and item.strength > 0,
                num_nodes=item.num_nodes,
                num_questions=item.num_questions,
            )
    run.folder.write_table(TABLE, FILE, rows.table_of())


def correlate(frame: pd.DataFrame, predictor: str, *, seed: int, num_resamples: int) -> Correlation:
    """Rank-correlate a predictor with the cosines of one teacher and method.

    A predictor is distinct if the interval excludes 0 at a level of 1 - 0.05 / (number of
    predictors): with eight tries at 95 % one in three runs would find something in noise.

    Args:
        frame: columns question_id, cosine and the predictor's; rows that lack one are left out.
        predictor: one of `CHEAP`.
        seed: of the resampling.
        num_resamples: bootstrap resamples.
    """
    x_N, y_N = (frame[name].to_numpy(dtype=np.float64) for name in (predictor, "cosine"))
    there_N = np.isfinite(x_N) & np.isfinite(y_N)
    names, at_N = np.unique(
        frame["question_id"].to_numpy()[there_N].astype(str), return_inverse=True
    )
    if not len(names):
        return Correlation(predictor, UNKNOWN, False, 0, 0)
    x_N, y_N = (np.round(values_N[there_N], DECIMALS) for values_N in (x_N, y_N))
    statistic = rank_correlation(x_N, y_N, at_N, len(names))

    def around(level: float) -> Estimate:
        return cluster_bootstrap(
            np.eye(len(names)), statistic, seed=seed, num_resamples=num_resamples, level=level
        )

    found = around(0.95)
    distinct = found.excludes_zero and around(1.0 - 0.05 / len(CHEAP)).excludes_zero
    return Correlation(predictor, found, distinct, int(there_N.sum()), len(names))


def _nodes_of(run: Run, shard: str) -> pd.DataFrame:
    """Return a row per node, teacher and method with every predictor."""
    frame = run.folder.read_table("alignment", shard).to_pandas()
    frame = _text(
        frame[["question_id", "node_id", "teacher", "method", "cosine", "teacher_advantage"]]
    )
    frame = frame[frame["teacher"] != ""]
    nodes = _text(
        run.folder.read_table("nodes", shard)
        .select(["node_id", "relative_position", "student_entropy"])
        .to_pandas()
    ).rename(columns={"relative_position": "position"})
    pairs = _text(
        run.folder.read_table("diagnostics", shard)
        .select(["node_id", "teacher", "overlap_ratio", "reverse_kl", "forward_kl"])
        .to_pandas()
    )
    models = pd.concat([_models_at_nodes(run, shard, t.label) for t in run.teachers])
    return (
        frame.merge(nodes, on="node_id", how="left", validate="many_to_one")
        .merge(pairs, on=["node_id", "teacher"], how="left", validate="many_to_one")
        .merge(models, on=["node_id", "teacher"], how="left", validate="many_to_one")
    )


def _models_at_nodes(run: Run, shard: str, label: str) -> pd.DataFrame:
    """Return the student's confidence (its largest probability) and the teacher's entropy."""
    name = teacher_file(shard, label)
    table = run.folder.read_table("distributions", name)
    found = _text(table.select(["node_id", "teacher", "spine_id", "position"]).to_pandas())
    found["student_confidence"] = np.exp(_largest(table["student_logprobs"]))
    tokens = _text(
        run.folder.read_table("tokens", name)
        .select(["spine_id", "position", "teacher_entropy"])
        .to_pandas()
    )
    found = found.merge(tokens, on=["spine_id", "position"], how="left", validate="one_to_one")
    return found.drop(columns=["spine_id", "position"])


def _largest(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the largest value of each list; every node has at least one token."""
    lists = column.combine_chunks()
    values = lists.flatten().to_numpy().astype(np.float64)
    offsets = np.asarray(lists.offsets.to_numpy(), dtype=np.int64)
    if len(offsets) < 2:
        return np.zeros(0)
    return np.asarray(np.maximum.reduceat(values, offsets[:-1] - offsets[0]))


def _text(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn dictionary columns into plain strings, which merge across tables."""
    out = frame.copy()
    for name in ("question_id", "spine_id", "node_id", "teacher", "method"):
        if name in out:
            out[name] = out[name].astype(str)
    return out


# Entries of [resamples, nodes] handled at a time.
_BLOCK = 1 << 20


def rank_correlation(
    first_N: npt.ArrayLike, second_N: npt.ArrayLike, question_N: npt.ArrayLike, num_questions: int
) -> Callable[[npt.ArrayLike], Floats]:
    """Return Spearman's correlation as a statistic of how often each question is drawn.

    The result maps multiplicities [..., Q] to correlations [...], NaN where either side is
    constant; with `cluster_bootstrap` of an identity matrix it gives an interval over questions.
    Equal values share the mean of their ranks, equal within a question or by being drawn twice.

    Args:
        first_N: one variable at each node, finite, [N].
        second_N: the other, [N].
        question_N: number of each node's question, 0 to Q - 1, [N].
        num_questions: Q.

    Raises:
        ValueError: shapes differ.
    """
    x_N, y_N = np.asarray(first_N, dtype=np.float64), np.asarray(second_N, dtype=np.float64)
    at_N = np.asarray(question_N, dtype=np.int64)
    if not x_N.shape == y_N.shape == at_N.shape or x_N.ndim != 1:
        raise ValueError(f"need three arrays [N], got {x_N.shape}, {y_N.shape} and {at_N.shape}")
    x_order, x_begin, x_group_N = _groups(x_N)
    y_order, y_begin, y_group_N = _groups(y_N)
    at_x_N, at_y_N = at_N[x_order], at_N[y_order]
    # Everything is laid out in order of x; ranks of y are fetched from their own order.
    group_x_N, group_y_N = x_group_N[x_order], y_group_N[x_order]

    def block(times_BQ: Floats) -> Floats:
        weight_BN = times_BQ[:, at_x_N]
        x_BG, x_scale_B = _middles(weight_BN, x_begin)
        y_BG, y_scale_B = _middles(times_BQ[:, at_y_N], y_begin)
        cross_B = np.einsum("bn,bn,bn->b", weight_BN, x_BG[:, group_x_N], y_BG[:, group_y_N])
        scale_B = x_scale_B * y_scale_B
        # A constant variable has ranks that vary by rounding only.
        there_B = scale_B > 1e-18 * weight_BN.sum(axis=1) ** 6
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(there_B, cross_B / np.sqrt(scale_B), np.nan)

    def statistic(times: npt.ArrayLike) -> Floats:
        times_XQ = np.asarray(times, dtype=np.float64)
        times_BQ = times_XQ.reshape(-1, num_questions)
        rows = max(1, _BLOCK // max(len(at_N), 1))
        parts = [block(times_BQ[i : i + rows]) for i in range(0, len(times_BQ), rows)]
        return np.concatenate(parts).reshape(times_XQ.shape[:-1])

    return statistic


def _groups(values_N: Floats) -> tuple[Ints, Ints, Ints]:
    """Return the rising order, where each group of equal values begins in it, and its number."""
    order = np.argsort(values_N, kind="stable")
    ordered_N = values_N[order]
    fresh_N = np.r_[True, ordered_N[1:] != ordered_N[:-1]][: len(ordered_N)]
    group_N = np.empty(len(order), dtype=np.int64)
    group_N[order] = np.cumsum(fresh_N) - 1
    return order, np.flatnonzero(fresh_N), group_N


def _middles(ordered_BN: Floats, begin_G: Ints) -> tuple[Floats, Floats]:
    """Return the centred mid-rank of each group of equal values, and their weighted square sum.

    With total weight W and groups of weight W_g that sum is (W^3 - sum of W_g^3) / 12.

    Args:
        ordered_BN: weights in rising order of the values, [B, N].
        begin_G: where each group begins, [G].
    """
    groups = len(begin_G)
    weight_BG = np.add.reduceat(ordered_BN, begin_G, axis=1) if groups else ordered_BN
    total_BG = np.cumsum(weight_BG, axis=1)
    total_B = total_BG[:, -1] if groups else np.zeros(len(ordered_BN))
    middle_BG = total_BG - weight_BG / 2 - total_B[:, None] / 2
    return middle_BG, (total_B**3 - (weight_BG**3).sum(axis=1)) / 12


def figures(run: Run) -> list[Figure]:
    """Return the best predictor of each teacher and method; of none the value is missing."""
    if not run.folder.has_table(TABLE, FILE):
        return []
    frame = run.folder.read_table(TABLE, FILE).to_pandas()
    found = []
    for (teacher, method), group in frame.groupby(["teacher", "method"], sort=False, observed=True):
        best = group[group["best"]]
        questions = int(group["num_questions"].max())
        if len(best):
            row = best.iloc[0]
            name = str(row["predictor"])
            found_best = Estimate(*map(float, (row["correlation"], row["low"], row["high"])))
        else:
            name, found_best = "none", UNKNOWN
        key = FigureKey("predictors", str(teacher), "best_predictor", f"{method}: {name}")
        found.append(Figure(key, "all", questions, found_best))
    return found


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say it once for all methods with the same best predictor and sign, with the strongest."""
    best = figures.variants("predictors", teacher, "best_predictor")
    alike: dict[tuple[str, bool], list[str]] = {}
    for variant, value in best.items():
        alike.setdefault((variant.rpartition(": ")[2], value.value > 0), []).append(variant)
    said: dict[FigureKey, Advice] = {}
    for (name, _), group in alike.items():
        # Of none there are no correlations, and the order stays.
        group.sort(key=lambda variant: -abs(best[variant].value) if name != "none" else 0.0)
        methods = [variant.rpartition(": ")[0] for variant in group]
        said[FigureKey("predictors", teacher, "best_predictor", group[0])] = predictors_advice(
            methods, "" if name == "none" else name, best[group[0]]
        )
    return said


def predictors_advice(methods: Sequence[str], predictor: str, correlation: Estimate) -> Advice:
    """Say what to choose tokens by.

    Args:
        methods: those of which it is said.
        predictor: their best; empty for none.
        correlation: the strongest among the methods, which is that of the first of them.
    """
    of = ", ".join(methods)
    if not predictor:
        return Advice(
            f"Nothing cheap predicts the alignment of {of}: do not select or weigh tokens by "
            "overlap, KL or entropy.",
            Consequence.NOTHING,
        )
    side = "high" if correlation.value > 0 else "low"
    whose = f" for {methods[0]}" if len(methods) > 1 else ""
    return Advice(
        f"The alignment of {of} is better where {predictor} is {side} (rank correlation "
        f"{correlation}{whose}): a cheap filter or weight for tokens, to be checked against "
        "`pooled` before use.",
        Consequence.COULD_GAIN,
    )


def _no_shard(run: Run, shard: str, into: Collector) -> None:
    """Correlations are of the run as a whole."""


DIAGNOSTIC = Diagnostic(_no_shard, advise, writers=lambda run: (OverlapTable(),), figures=figures)
