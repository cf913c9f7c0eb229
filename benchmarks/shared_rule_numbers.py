"""What `shared_rule` computes from a run: success rates, alignments, paired differences.

Axes: _Q questions, _K sums, _N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from shared_rule_text import CONTROL, LEVEL, METHODS, SHARED, SPECIFIC, SPLITS

from gradalign.alignment import cluster_bootstrap, compare, mean_of_sums, pooled_of_sums
from gradalign.report.node_scores import Arm, NodeScores
from gradalign.report.report import Report
from gradalign.report.significance import holm

Floats = npt.NDArray[np.float64]

DEPTHS = (0.0, 0.5)


@dataclass(frozen=True)
class Resampling:
    """Of every bootstrap: its seed and how many resamples it takes."""

    seed: int
    num_resamples: int


def per_question(frame: Any, questions: Sequence[str]) -> Floats:
    """Sums of rewards and their number, [Q, 2]."""
    grouped = frame.groupby("question_id", observed=True)["reward"].agg(["sum", "count"])
    return np.asarray(grouped.reindex(list(questions)).fillna(0.0).to_numpy(dtype=np.float64))


def success(
    report: Report, labels: dict[str, str], questions: Sequence[str], draws: Resampling
) -> dict[str, Any]:
    """How often each teacher succeeds: from scratch, and from half of the student's spines.

    The student (the sibling without any information) is there for comparison.
    """
    prefixes = report.table("diagnostics_prefix")
    found: dict[str, Any] = {}
    for name, label in {"student": "", **labels}.items():
        mine = prefixes[prefixes["teacher"] == label]
        scratch, half = (mine[np.isclose(mine["depth"], depth)] for depth in DEPTHS)
        parts = {
            "from_scratch": scratch if label else report.spines,
            "from_half_of_correct_spines": half[half["correct"]],
            "from_half_of_incorrect_spines": half[~half["correct"]],
        }
        found[name] = {
            part: _interval(per_question(frame, questions), mean_of_sums, draws)
            for part, frame in parts.items()
        }
    return found


def _interval(sums_QK: Floats, statistic: Any, draws: Resampling) -> dict[str, float]:
    found = cluster_bootstrap(
        sums_QK, statistic, seed=draws.seed, num_resamples=draws.num_resamples, level=LEVEL
    )
    return {name: float(value) for name, value in asdict(found).items()}


def alignment(
    report: Report, scores: NodeScores, labels: dict[str, str], draws: Resampling
) -> list[dict[str, Any]]:
    """Pooled alignment and mean cosine per teacher, method and split."""
    splits = scores.splits()
    means = report.summary.set_index(["teacher", "method", "split"])["mean_cosine"]
    return [
        {
            "teacher": name,
            "method": method,
            "split": split,
            "nodes": int((scores.there(Arm(label, method)) & splits[split]).sum()),
            "pooled": _interval(
                scores.sums(Arm(label, method), splits[split]), pooled_of_sums, draws
            ),
            "mean_cosine": float(means[label, method, split]),
        }
        for name, label in labels.items()
        for method in METHODS
        for split in SPLITS
    ]


def comparisons(
    report: Report, scores: NodeScores, labels: dict[str, str], draws: Resampling
) -> list[dict[str, Any]]:
    """The shared rule minus each other teacher, on the nodes that both have, by both measures.

    The family of Holm's correction is the rule against the instance-specific teachers on all
    nodes; the other rows are there to explain and their p-values stand alone.
    """
    splits, first = scores.splits(), f"self+{SHARED}"
    cosine = cosines(report, scores)
    rows: list[dict[str, Any]] = []
    for second in (f"self+{name}" for name in (*SPECIFIC, CONTROL)):
        for method in METHODS:
            arms = [Arm(labels[name], method) for name in (first, second)]
            defined_N = np.isfinite([cosine[arm] for arm in arms]).all(axis=0)
            for split in SPLITS:
                inside_N = scores.there(*arms) & splits[split]
                pooled = [scores.sums(arm, inside_N) for arm in arms]
                mean = [cosine_sums(scores, cosine[arm], inside_N & defined_N) for arm in arms]
                for measure, sums, statistic, count in (
                    ("pooled", pooled, pooled_of_sums, inside_N),
                    ("mean_cosine", mean, mean_of_sums, inside_N & defined_N),
                ):
                    rows.append(
                        {
                            "first": first,
                            "second": second,
                            "method": method,
                            "split": split,
                            "measure": measure,
                            "nodes": int(count.sum()),
                            **_difference(sums[0], sums[1], statistic, draws),
                        }
                    )
    family = [row for row in rows if row["split"] == "all" and row["second"] != f"self+{CONTROL}"]
    for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
        row["adjusted_p"] = adjusted
    return rows


def cosines(report: Report, scores: NodeScores) -> dict[Arm, Floats]:
    """Per-node cosines of every arm in the order of the scores' nodes, NaN where undefined."""
    frame = report.table("alignment", ["teacher", "method", "node_id", "cosine"])
    found = {}
    for arm in scores.arms:
        mine = frame[(frame["teacher"] == arm.teacher) & (frame["method"] == arm.method)]
        by_node = mine.assign(node_id=mine["node_id"].astype(object)).set_index("node_id")
        found[arm] = by_node["cosine"].reindex(scores.node_id_N).to_numpy(dtype=np.float64)
    return found


def cosine_sums(scores: NodeScores, cosine_N: Floats, inside_N: npt.NDArray[np.bool_]) -> Floats:
    """Weighted cosines and weights per question over some nodes, [Q, 2]."""
    weight_N = np.where(inside_N, scores.weight_N, 0.0)
    columns = (np.where(inside_N, cosine_N, 0.0) * weight_N, weight_N)
    size = len(scores.questions)
    return np.stack([np.bincount(scores.question_N, column, size) for column in columns], axis=1)


def _difference(
    first_QK: Floats, second_QK: Floats, statistic: Any, draws: Resampling
) -> dict[str, float]:
    found = compare(
        first_QK,
        second_QK,
        statistic,
        seed=draws.seed,
        num_resamples=draws.num_resamples,
        level=LEVEL,
    )
    return {name: float(value) for name, value in asdict(found).items()}


def success_differences(
    report: Report, labels: dict[str, str], questions: Sequence[str], draws: Resampling
) -> list[dict[str, Any]]:
    """The shared rule's success from scratch minus each instance-specific teacher's, paired."""
    prefixes = report.table("diagnostics_prefix")
    scratch = prefixes[np.isclose(prefixes["depth"], 0.0)]
    sums = {
        name: per_question(scratch[scratch["teacher"] == label], questions)
        for name, label in labels.items()
    }
    first = f"self+{SHARED}"
    return [
        {
            "first": first,
            "second": second,
            **_difference(sums[first], sums[second], mean_of_sums, draws),
        }
        for second in (f"self+{name}" for name in SPECIFIC)
    ]
