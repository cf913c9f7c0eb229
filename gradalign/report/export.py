"""Per-token weights for selective distillation, joined to the responses by their token ids.

Only nodes were measured. A node where nothing depends on the token (`flat`), and every position
that was not branched, has no score of its own and gets the weight `elsewhere`. Axes: _N nodes, _L
positions of a response.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import norm

from gradalign.alignment import pooled_of_sums
from gradalign.alignment.findings import TOO_FEW
from gradalign.alignment.scores import pooling_columns
from gradalign.errors import RunError, UsageError
from gradalign.estimates import Arm
from gradalign.report.arms import shown_arm
from gradalign.report.format import interval, visible
from gradalign.report.node_scores import arms_in, directions
from gradalign.store.output_file import head_of, replacing

if TYPE_CHECKING:
    from gradalign.report.report import Report

Floats = npt.NDArray[np.float64]
Rule = Literal["keep", "drop", "scale"]
Score = Literal["estimate", "bound", "weights"]
Spines = Literal["all", "correct", "incorrect", "aligned"]
FileFormat = Literal["parquet", "jsonl"]

SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("spine_id", pa.string()),
        ("teacher", pa.string()),
        ("method", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
        ("scores", pa.list_(pa.float32())),
        ("spine_score", pa.float64()),
        ("spine_kept", pa.bool_()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
    ]
)
"""The exported rows: one response each; `scores` is null where a position was not measured."""


@dataclass(frozen=True)
class ExportSettings:
    """How scores become weights.

    Attributes:
        rule: `keep`: weight 1 where the score is above the threshold, else 0. `drop`: weight 0
            where it is below, else 1. `scale`: the score itself, cut off at 0 and 1.
        score: the cosine itself (`estimate`) or the careful end of its one-sided interval
            (`bound`): the lower end for keep and scale, the upper end for drop, so that a token
            is kept, or dropped, only where rollouts are sure of it. Or what other questions gain
            if the weights follow the token (`weights`), in units of what a token of the run moves
            them by on average, whichever way.
        threshold: what the score is compared with, in [-1, 1].
        elsewhere: weight of positions without a score; None for the rule's own: 0 for keep, 1
            for drop, and for scale the mean weight of the scored positions of the run, each
            counted by 1 / its inclusion probability.
        spines: which responses keep any weight: `all`, `correct`, `incorrect`, or `aligned` (those
            whose nodes' pooled alignment, or mean score in the weights, is above the threshold).
        confidence: of the one-sided bound.
    """

    rule: Rule = "keep"
    score: Score = "estimate"
    threshold: float = 0.0
    elsewhere: float | None = None
    spines: Spines = "all"
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Check the choices and numbers.

        Raises:
            UsageError: one is out of range, or no such choice.
        """
        for name, value, known in (
            ("rule", self.rule, get_args(Rule)),
            ("score", self.score, get_args(Score)),
            ("spines", self.spines, get_args(Spines)),
        ):
            if value not in known:
                raise UsageError(f"--{name} {value!r} is none of {', '.join(known)}.")
        if not -1.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold {self.threshold} is not in [-1, 1].")
        if self.elsewhere is not None and not 0.0 <= self.elsewhere < float("inf"):
            raise UsageError(f"--elsewhere {self.elsewhere} is not a weight of 0 or more.")
        if not 0.5 <= self.confidence < 1.0:
            raise UsageError(f"--confidence {self.confidence} is not in [0.5, 1).")

    def weights(self, score: npt.ArrayLike) -> Floats:
        """Turn scores into weights; NaN stays NaN."""
        score_N = np.asarray(score, dtype=np.float64)
        if self.rule == "scale":
            return np.clip(score_N, 0.0, 1.0)
        kept_N = score_N > self.threshold if self.rule == "keep" else score_N >= self.threshold
        return np.where(np.isnan(score_N), np.nan, kept_N.astype(np.float64))


def export(
    report: Report,
    path: str,
    *,
    file_format: FileFormat = "parquet",
    teacher: str | None = None,
    method: str | None = None,
    settings: ExportSettings | None = None,
) -> dict[str, float]:
    """Write one row per response with a weight per token.

    Args:
        report: a finished run.
        path: the file.
        file_format: parquet or jsonl.
        teacher: whose update is weighted; the best arm's by default.
        method: of which method; the best one of the teacher by default.
        settings: how scores become weights.

    Returns:
        Counts: responses, tokens, scored tokens, and the mean weight.

    Raises:
        UsageError: no such format, or no such teacher or method in the run.
        RunError: the file cannot be written, or the run has no alignment in the weights that
            scores are wanted of.
    """
    if file_format not in get_args(FileFormat):
        known = ", ".join(get_args(FileFormat))
        raise UsageError(f"--format {file_format!r} is none of {known}.")
    settings = settings or ExportSettings()
    arm = choose_arm(report, teacher, method)
    if split := report.metadata.get("task", {}).get("evaluation"):
        warnings.warn(
            f"weights of responses to {split}: a student trained with them has seen what it is "
            "measured on. Score questions to train on, such as --task gsm8k:split=train.",
            stacklevel=2,
        )
    scores = _scores(report, arm, settings)
    elsewhere = _elsewhere(scores, settings)
    counts: dict[str, float] = {"responses": 0, "tokens": 0, "scored_tokens": 0, "weight": 0.0}
    try:
        with replacing(path, is_export) as target:
            if file_format == "parquet":
                with pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
                    for rows in _rows(report, arm, scores, elsewhere, settings, counts):
                        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            else:
                with open(target, "w", encoding="utf-8") as file:
                    for rows in _rows(report, arm, scores, elsewhere, settings, counts):
                        for row in rows:
                            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}.") from error
    counts["mean_weight"] = counts.pop("weight") / max(counts["tokens"], 1.0)
    return counts


def is_export(path: str) -> bool:
    """Whether a file is an export of ours, of either format."""
    head = head_of(path)
    if not head.startswith(b"PAR1"):
        return head.startswith(b'{"question_id": ') and b', "spine_id": ' in head
    try:
        with pq.ParquetFile(path) as file:
            return bool(file.schema_arrow.names == SCHEMA.names)
    except (OSError, pa.ArrowException):
        return False


def why_chosen(report: Report, arm: Arm, teacher: str | None, method: str | None) -> str:
    """Say whose weights an export has, and why.

    Args:
        report: the run.
        arm: what `choose_arm` returned.
        teacher: that was asked for; None where it was left open.
        method: likewise.
    """
    name = f"weights of {visible(str(arm))}"
    if teacher is not None and method is not None:
        return f"{name}, as asked for."
    rows = report.summary
    (row,) = rows[
        (rows["split"] == "all") & (rows["teacher"] == arm.teacher) & (rows["method"] == arm.method)
    ].to_dict("records")
    of = (
        " of this teacher's methods"
        if teacher is not None
        else " of the teachers with this method"
        if method is not None
        else " of all teachers and methods"
    )
    flags = [flag for flag, asked in (("--teacher", teacher), ("--method", method)) if not asked]
    value = interval(row["pooled"], row["pooled_low"], row["pooled_high"])
    why = f"the highest pooled alignment{of}, {value}"
    if row["pooled"] != row["pooled"]:
        why = f"the first{of}: {row['reason'] or TOO_FEW}, so that none is ahead"
    return (
        f"{name}: {why}. {' and '.join(flags)} "
        f"{'takes another' if len(flags) == 1 else 'take others'}."
    )


def choose_arm(report: Report, teacher: str | None, method: str | None) -> Arm:
    """Return the arm that is asked for; what is left open is the best there is, or the first.

    Raises:
        RunError: the run is not finished.
        UsageError: no such arm in the run.
    """
    report.check_finished()
    rows = report.summary
    arms = arms_in(rows)
    fitting = [
        arm for arm in arms if teacher in (None, arm.teacher) and method in (None, arm.method)
    ]
    if not fitting:
        raise UsageError(
            f"{report.path} has no {Arm(teacher or '*', method or '*')}.",
            f"Known: {', '.join(map(str, arms))}.",
        )
    if len(fitting) == 1:
        return fitting[0]
    if teacher is not None:
        rows = rows[rows["teacher"] == teacher]
    if method is not None:
        rows = rows[rows["method"] == method]
    return shown_arm(rows)


@dataclass(frozen=True, eq=False)
class _NodeScore:
    score: float
    weight: float
    sums: Floats


_Scores = dict[str, dict[int, _NodeScore]]
"""Spine id and position to what is known of the node."""


def _scores(report: Report, arm: Arm, settings: ExportSettings) -> _Scores:
    columns = ["spine_id", "position", "node_id", "teacher", "method", "weight", "cosine"]
    columns += ["dot", "ideal_norm2", "method_norm2"]
    if settings.score == "weights":
        if "weights" not in report.metadata.get("config", {}).get("alignment", ()):
            raise RunError(
                f"{report.path} has no alignment in the weights.",
                f"Add it without sampling again: gradalign rescore {report.path} "
                "--alignment weights",
            )
        columns.append("weights_dot")
    table = report.table("alignment", columns)
    table = table[(table["teacher"] == arm.teacher) & (table["method"] == arm.method)]
    score_N = table["cosine"].to_numpy(dtype=np.float64)
    if settings.score == "bound":
        reach = float(norm.ppf(settings.confidence))
        sign = 1.0 if settings.rule == "drop" else -1.0
        spread = _cosine_se(report, arm)
        se_N = np.array([spread.get(str(node), np.nan) for node in table["node_id"]])
        score_N = np.clip(score_N + sign * reach * se_N, -1.0, 1.0)
    elif settings.score == "weights":
        score_N = _in_weights(table)
    found: _Scores = {}
    for row, score in zip(table.to_dict("records"), score_N, strict=True):
        if settings.score == "weights":
            sums = np.array([row["weight"] * score, row["weight"]])
        else:
            norms = (row["ideal_norm2"], row["method_norm2"])
            sums = pooling_columns(row["dot"], *norms, row["weight"])
        found.setdefault(str(row["spine_id"]), {})[int(row["position"])] = _NodeScore(
            float(score), float(row["weight"]), sums
        )
    return found


def _in_weights(table: pd.DataFrame) -> Floats:
    """Return what others gain by each node, over the mean of its size; each by 1 / inclusion."""
    dot_N = table["weights_dot"].to_numpy(dtype=np.float64)
    weight_N = table["weight"].to_numpy(dtype=np.float64)
    known_N = np.isfinite(dot_N)
    total = float(weight_N[known_N].sum())
    mean = float(weight_N[known_N] @ np.abs(dot_N[known_N])) / total if total else 0.0
    return dot_N / mean if mean > 0 else np.where(known_N, 0.0, np.nan)


def _cosine_se(report: Report, arm: Arm) -> dict[str, float]:
    """Return each node's standard error of the cosine: that of g* . m over both lengths.

    The lengths are taken as known; the noise of |g*| moves the cosine towards 0, not past it.
    """
    out: dict[str, float] = {}
    ideal = report.table("branches", ["node_id", "ideal"])
    squares = (ideal["ideal"].fillna(0.0) ** 2).groupby(ideal["node_id"].astype(str)).sum()
    length = dict(zip(squares.index, np.sqrt(squares), strict=True))
    for shard in report.folder.files("alignment"):
        try:
            every = list(directions(report, shard, [arm]))
        except RunError as error:
            warnings.warn(f"{error.message} Its positions count as not measured.", stacklevel=2)
            continue
        for found in every:
            for node, size, se in zip(found.node_ids, found.length_N, found.dot_se_N, strict=True):
                both = float(size) * float(length.get(node, 0.0))
                out[node] = float(se) / both if both > 0 else float("nan")
    return out


def _of_response(sums: Floats, settings: ExportSettings) -> float:
    """Return a response's score: its pooled alignment, or the mean of its tokens' scores."""
    if settings.score == "weights":
        return float(sums[0] / sums[1])
    return float(pooled_of_sums(sums))


def _elsewhere(scores: _Scores, settings: ExportSettings) -> float:
    if settings.elsewhere is not None:
        return settings.elsewhere
    if settings.rule != "scale":
        return 0.0 if settings.rule == "keep" else 1.0
    items = [item for spine in scores.values() for item in spine.values()]
    weights = settings.weights([item.score for item in items])
    times = np.array([item.weight for item in items])
    there = np.isfinite(weights)
    return float(np.average(weights[there], weights=times[there])) if there.any() else 1.0


def _rows(
    report: Report,
    arm: Arm,
    scores: _Scores,
    elsewhere: float,
    settings: ExportSettings,
    counts: dict[str, float],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows shard by shard, so that memory does not grow with the run."""
    for shard in report.folder.files("spines"):
        try:
            questions = report.folder.read_table("questions", shard)
            spines = report.folder.read_table("spines", shard).to_pylist()
        except RunError as error:
            warnings.warn(f"{error.message} Its responses are left out.", stacklevel=2)
            continue
        prompts = dict(
            zip(
                questions["question_id"].to_pylist(),
                questions["prompt_ids"].to_pylist(),
                strict=True,
            )
        )
        rows = []
        for spine in spines:
            measured = scores.get(str(spine["spine_id"]), {})
            length = len(spine["token_ids"])
            score_L = np.full(length, np.nan)
            for position, item in measured.items():
                score_L[position] = item.score
            weight_L = np.nan_to_num(settings.weights(score_L), nan=elsewhere)
            sums = np.sum([item.sums for item in measured.values()], axis=0) if measured else None
            pooled = float("nan") if sums is None else _of_response(sums, settings)
            kept = {
                "all": True,
                "correct": spine["correct"] is True,
                "incorrect": spine["correct"] is False,
                "aligned": pooled > settings.threshold,
            }[settings.spines]
            if not kept:
                weight_L[:] = 0.0
            counts["responses"] += 1
            counts["tokens"] += length
            counts["scored_tokens"] += int(np.isfinite(score_L).sum())
            counts["weight"] += float(weight_L.sum())
            rows.append(
                {
                    "question_id": spine["question_id"],
                    "spine_id": spine["spine_id"],
                    "teacher": arm.teacher,
                    "method": arm.method,
                    "prompt_ids": prompts[spine["question_id"]],
                    "token_ids": spine["token_ids"],
                    "weights": [float(value) for value in weight_L],
                    "scores": [float(v) if np.isfinite(v) else None for v in score_L],
                    "spine_score": pooled if np.isfinite(pooled) else None,
                    "spine_kept": bool(kept),
                    "reward": spine["reward"],
                    "correct": spine["correct"],
                }
            )
        yield rows
