"""Rank correlations of per-node alignment with everything that is cheaper to know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gradalign.alignment import Interval, cluster_bootstrap
from gradalign.diagnostics.ranks import rank_correlation
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
    interval: Interval
    distinct: bool
    num_nodes: int
    num_questions: int

    @property
    def strength(self) -> float:
        """How strong it is, if it can be named the best: cheap, and not 0."""
        usable = CHEAP[self.predictor] and self.distinct
        return abs(self.interval.estimate) if usable else -1.0


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
                correlation=item.interval.estimate,
                low=item.interval.low,
                high=item.interval.high,
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
    nothing = Interval(np.nan, np.nan, np.nan, np.nan)
    if not len(names):
        return Correlation(predictor, nothing, False, 0, 0)
    x_N, y_N = (np.round(values_N[there_N], DECIMALS) for values_N in (x_N, y_N))
    statistic = rank_correlation(x_N, y_N, at_N, len(names))

    def around(level: float) -> Interval:
        return cluster_bootstrap(
            np.eye(len(names)), statistic, seed=seed, num_resamples=num_resamples, level=level
        )

    found = around(0.95)
    distinct = _excludes_zero(found) and _excludes_zero(around(1.0 - 0.05 / len(CHEAP)))
    return Correlation(predictor, found, distinct, int(there_N.sum()), len(names))


def _excludes_zero(found: Interval) -> bool:
    return bool(found.low > 0 or found.high < 0)


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
