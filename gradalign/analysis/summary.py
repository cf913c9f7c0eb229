"""Stage 6: from per-node alignments to one row per teacher, method and split.

Shards are read one after the other and reduced to sums per question, which is all that the
estimates and their intervals need: memory does not grow with the number of nodes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc

from gradalign import methods
from gradalign.alignment import mean_of_sums, pooled_of_sums
from gradalign.alignment.fieller import RatioSet, pooled_influence
from gradalign.alignment.findings import (
    PART_QUESTIONS,
    cosine_finding,
    mean_finding,
    pooled_finding,
    why_unsaid,
)
from gradalign.alignment.scores import ALL_FLAT, ZERO_NORM, pooling_columns
from gradalign.analysis.align import arms_of, question_ids
from gradalign.analysis.gram import (
    best_arms,
    crossed_sums,
    in_second_half,
    read_grams,
)
from gradalign.analysis.weights import WeightsEstimate, weights_level
from gradalign.estimates import UNKNOWN, Arm, Estimate
from gradalign.stages.base import Run, teacher_file
from gradalign.store.manifest import RunLog
from gradalign.store.splits import (
    QUESTION,
    entropy_edges,
    entropy_splits,
    outcome_splits,
    position_splits,
)
from gradalign.store.table_builder import Rows

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


POOLED = ("dot", "ideal_norm2", "method_norm2", "ideal_size", "method_size")
MEAN = ("cosine_sum", "num_cosines")
BALANCED = ("unit_dot", "unit_ideal_norm2", "unit_weight", "unit_ideal_size", "unit_size")
COLUMNS = (
    *POOLED,
    *MEAN,
    *BALANCED,
    "num_positive",
    "num_nodes",
    "num_flat",
    "weight",
    "coverage",
    "advantage",
    "advantage_weight",
    "outside",
    "outside_weight",
)

DUST = 1e-9
"""Halves that point opposite ways have a mean cosine of 0 but for rounding: it is not above 0."""

NOT_SHOWN = "the teacher was shown no question (nothing to show)"
NO_NODES = "no position was measured"

ROWS = 1024
"""Rows of the summary that are held as Python objects at once."""


@dataclass
class _Sums:
    """Sums of COLUMNS over the nodes of each question, for one teacher and method.

    Attributes:
        by_split: per split, an array [Q, K] for every shard.
        questions: ids of the questions of the split "all", in order.
    """

    by_split: dict[str, list[Floats]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)


def summarise(run: Run, log: RunLog) -> None:
    """Write summary.parquet, summary.json and the totals of run.json."""
    edges = _entropy_edges(run)
    sums: dict[Arm, _Sums] = {}
    totals: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    noise = np.zeros(2)
    for shard in run.shards():
        _add_shard(run, shard, edges, sums)
        totals += _totals(run, shard)
        rules += _rules(run, shard)
        noise += _noise(run, shard)
    _add_best(run, sums)
    weights = weights_level(run) if "weights" in run.config.alignment else {}
    _write_question_sums(run, sums, weights)
    rows = Rows("summary")
    ahead = _rows(run, sums, weights, any_nodes=totals["nodes"] > 0)
    while some := list(itertools.islice(ahead, ROWS)):
        rows.add(len(some), **{name: [row[name] for row in some] for name in some[0]})
    table = rows.table_of()
    run.folder.write_summary(table)
    # As text: a row per question, teacher and method is too much for objects.
    records = table.to_pandas().to_json(
        orient="records", double_precision=15, indent=2, force_ascii=False
    )
    run.folder.write_bytes("summary.json", f"{records}\n".encode())
    failures = sorted(name for name in totals if name.startswith("verifier_"))
    log.data["totals"] = {name: totals[name] for name in (*TOTALS, *failures)}
    log.data["read_by"] = dict(rules.most_common())
    log.data["noise_over_signal"] = _ratio(*noise) if noise[1] > 0 else None
    log.save()


def _add_best(run: Run, sums: dict[Arm, _Sums]) -> None:
    """Add the sums of `mix:best`, whose coefficient for a question comes from the other half."""
    arms = list(best_arms(run))
    if not arms:
        return
    grams = read_grams(run)
    second_Q = in_second_half(run, grams.questions)
    for arm, _, (first, second) in arms:
        if not grams.has(first, second):
            continue
        columns_QY = np.zeros((len(grams.questions), len(COLUMNS)))
        columns_QY[:, : len(POOLED)] = crossed_sums(grams.pair(first, second), second_Q)
        _count_nodes(columns_QY, grams.questions, sums.get(first, _Sums()))
        sums[arm] = _Sums({"all": [columns_QY]}, list(grams.questions))


def _count_nodes(columns_QY: Floats, questions: Sequence[str], first: _Sums) -> None:
    """Take the counts of nodes from the first arm of a mixture, where the run has it."""
    if "all" not in first.by_split:
        return
    known = dict(zip(first.questions, np.concatenate(first.by_split["all"]), strict=True))
    for name in ("num_nodes", "num_flat", "weight", "coverage"):
        at = COLUMNS.index(name)
        columns_QY[:, at] = [known[q][at] if q in known else 0.0 for q in questions]


QUESTION_SUMS = "question_sums"


def _write_question_sums(
    run: Run,
    sums: dict[Arm, _Sums],
    weights: dict[tuple[Arm, str], WeightsEstimate],
) -> None:
    """Write what every arm's pooled alignment and gains are made of, question by question."""
    nothing_Q = np.full(len(question_ids(run)), np.nan)
    place = {question: index for index, question in enumerate(question_ids(run))}
    shard_of = {
        str(question): shard
        for shard in run.shards()
        for question in run.folder.read_table("questions", shard)["question_id"].to_pylist()
    }
    rows = {shard: Rows(QUESTION_SUMS) for shard in run.shards()}
    for arm, found in sums.items():
        parts = found.by_split.get("all", [])
        if not parts:
            continue
        sums_QY = np.concatenate(parts)[:, [COLUMNS.index(name) for name in POOLED]]
        influence_Q = pooled_influence(sums_QY)
        step = weights.get((arm, "all"))
        whole_Q = nothing_Q if step is None else step.influence_Q
        one_Q = nothing_Q if step is None else step.influence_one_Q
        share_Q = nothing_Q if step is None else step.influence_share_Q
        in_shard = np.array([shard_of[question] for question in found.questions])
        for shard in dict.fromkeys(in_shard.tolist()):
            at = np.flatnonzero(in_shard == shard)
            names = [found.questions[i] for i in at]
            numbers = [place[name] for name in names]
            rows[shard].add(
                len(at),
                question_id=names,
                teacher=arm.teacher,
                method=arm.method,
                **dict(zip(POOLED, sums_QY[at].T, strict=True)),
                influence=influence_Q[at],
                weights_influence=whole_Q[numbers],
                weights_one_influence=one_Q[numbers],
                weights_share_influence=share_Q[numbers],
            )
    for shard, own in rows.items():
        run.folder.write_table(QUESTION_SUMS, shard, own.table_of())


def _noise(run: Run, shard: str) -> Floats:
    """Sum over nodes what noise adds to |g|^2, and |g*|^2 itself, weighted, [2]."""
    nodes = run.folder.read_table("nodes", shard)
    branches = run.folder.read_table("branches", shard).to_pandas()
    length2 = (branches["ideal"] ** 2).groupby(branches["node_id"].astype(str)).sum()
    own_N = length2.reindex(nodes["node_id"].to_pylist()).to_numpy(dtype=np.float64)
    signal_N = nodes["ideal_norm2"].to_numpy()
    weight_N = 1.0 / nodes["inclusion_prob"].to_numpy()
    known_N = np.isfinite(own_N) & np.isfinite(signal_N)
    parts_N2 = weight_N[:, None] * np.column_stack([own_N - signal_N, signal_N])
    return np.asarray(parts_N2[known_N].sum(axis=0))


def _entropy_edges(run: Run) -> Floats:
    """Return the thirds of the student's entropy over all nodes of the run."""
    parts = [
        run.folder.read_table("nodes", shard)["student_entropy"].to_numpy()
        for shard in run.shards()
    ]
    return entropy_edges(np.concatenate(parts) if parts else [])


def _rows(
    run: Run,
    sums: dict[Arm, _Sums],
    weights: dict[tuple[Arm, str], WeightsEstimate],
    *,
    any_nodes: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the summary's rows: every split, then every question.

    An arm without any position has a row all the same, of the split all, that says why.
    """
    for arm in [*sums, *(arm for arm in arms_of(run) if arm not in sums)]:
        found = sums.get(arm, _Sums())
        if "all" not in found.by_split:
            nothing = _row(run, arm, "all", np.zeros((0, len(COLUMNS))))
            why = NOT_SHOWN if arm.teacher and any_nodes and not found.by_split else NO_NODES
            yield nothing | _weights_columns(None) | {"reason": why}
        for split, parts in found.by_split.items():
            yield (
                _row(run, arm, split, np.concatenate(parts))
                | _weights_columns(
                    weights.get((arm, split)),
                    withheld=split not in WHOLE_SPLITS and sum(map(len, parts)) < PART_QUESTIONS,
                )
            )
        place = 0
        for part in found.by_split.get("all", []):
            for i in range(len(part)):
                split = QUESTION + found.questions[place]
                row = _row(run, arm, split, part[i : i + 1])
                yield row | _weights_columns(None)
                place += 1


def _add_shard(run: Run, shard: str, edges: Floats, sums: dict[Arm, _Sums]) -> None:
    nodes = run.folder.read_table("nodes", shard).to_pandas()
    about = nodes[["node_id", "relative_position", "student_entropy", "coverage", "special"]]
    frame = run.folder.read_table("alignment", shard).to_pandas()
    frame = frame.merge(about, on="node_id", how="left", validate="many_to_one")
    for (teacher, method), group in frame.groupby(["teacher", "method"], sort=False, observed=True):
        columns_NY = _columns(group)
        question_N = group["question_id"].astype(str).to_numpy()
        found = sums.setdefault(Arm(str(teacher), str(method)), _Sums())
        for name, inside_N in _splits(group, edges, mask_special=run.config.mask_special):
            questions = pd.unique(question_N[inside_N])
            if not len(questions):
                continue
            parts = [
                columns_NY[inside_N & (question_N == question)].sum(axis=0)
                for question in questions
            ]
            found.by_split.setdefault(name, []).append(np.stack(parts))
            if name == "all":
                found.questions += map(str, questions)


def _columns(group: pd.DataFrame) -> Floats:
    """Return what is summed over nodes, [N, K] in order of COLUMNS."""
    weight = group["weight"].to_numpy(dtype=np.float64)
    cosine = group["cosine"].to_numpy(dtype=np.float64)
    there = np.isfinite(cosine)
    advantage = group["teacher_advantage"].to_numpy(dtype=np.float64)
    known = np.isfinite(advantage)
    dot, ideal, length2 = (group[name].to_numpy(dtype=np.float64) for name in POOLED[:3])
    outside = np.full(len(group), np.nan)
    if "weights_outside" in group:  # not in tables of an older version
        outside = group["weights_outside"].to_numpy(dtype=np.float64)
    moved = np.isfinite(outside)
    points = length2 > ZERO_NORM**2
    unit_dot = np.where(points, dot / np.sqrt(np.where(points, length2, 1.0)), 0.0)
    return np.column_stack(
        [
            pooling_columns(dot, ideal, length2, weight),
            np.where(there, cosine, 0.0),
            there,
            pooling_columns(unit_dot, np.where(points, ideal, 0.0), points, weight),
            there & (np.where(there, cosine, 0.0) > DUST),
            np.ones(len(group)),
            group["reason"].astype(str).to_numpy() == "flat",
            weight,
            weight * group["coverage"].to_numpy(dtype=np.float64),
            np.where(known, weight * np.where(known, advantage, 0.0), 0.0),
            np.where(known, weight, 0.0),
            np.where(moved, weight * np.where(moved, outside, 0.0), 0.0),
            np.where(moved, weight, 0.0),
        ]
    ).astype(np.float64)


def _splits(
    group: pd.DataFrame, edges: Floats, *, mask_special: bool
) -> Iterator[tuple[str, Bools]]:
    everything = np.ones(len(group), dtype=np.bool_)
    special = group["special"].to_numpy(dtype=np.bool_)
    kept = ~special if mask_special else everything
    for name, inside in _kept_splits(group, edges):
        yield name, inside & kept
    yield "with-special", everything
    yield "without-special", ~special


def _kept_splits(group: pd.DataFrame, edges: Floats) -> Iterator[tuple[str, Bools]]:
    yield from outcome_splits(group["correct"]).items()
    yield from position_splits(group["relative_position"]).items()
    yield from entropy_splits(group["student_entropy"], edges).items()


def _row(run: Run, arm: Arm, split: str, sums_QY: Floats) -> dict[str, Any]:
    total = dict(zip(COLUMNS, sums_QY.sum(axis=0), strict=True))
    by_name = {
        name: sums_QY[:, [COLUMNS.index(column) for column in columns]]
        for name, columns in (("pooled", POOLED), ("mean", MEAN), ("balanced", BALANCED))
    }
    pooled, mean, balanced = (_finding(split, sums, name) for name, sums in by_name.items())
    if methods.get(arm.method).uses_continuations:
        balanced = UNKNOWN  # the length of such a direction is not known
    reason = why_unsaid(by_name["pooled"], pooled)
    if reason and total["num_flat"] == total["num_nodes"]:
        reason = ALL_FLAT
    return {
        "teacher": arm.teacher,
        "method": arm.method,
        "split": split,
        "num_questions": len(sums_QY),
        "num_nodes": int(total["num_nodes"]),
        "num_flat": int(total["num_flat"]),
        "num_undefined": int(total["num_nodes"] - total["num_flat"] - total["num_cosines"]),
        "mean_cosine": mean.value,
        "mean_low": mean.low,
        "mean_high": mean.high,
        **pooled.columns("pooled", "pooled_"),
        **balanced.columns("balanced", "balanced_"),
        "positive_share": _ratio(total["num_positive"], total["num_cosines"]),
        "coverage": _ratio(total["coverage"], total["weight"]),
        "teacher_advantage": _ratio(total["advantage"], total["advantage_weight"]),
        "weights_outside": _ratio(total["outside"], total["outside_weight"]),
        "reason": reason,
    }


WHOLE_SPLITS = ("all", "with-special", "without-special")
"""Splits that are no small part of the tokens."""


def _finding(split: str, sums_QY: Floats, what: str) -> Estimate:
    """Return a number with its interval; of one question, which has none, what it shows itself."""
    if split.startswith(QUESTION):
        statistic = _mean_of_cosines if what == "mean" else pooled_of_sums
        return Estimate(float(statistic(sums_QY.sum(axis=0))))
    if what == "mean":
        return mean_finding(sums_QY)
    return pooled_finding(sums_QY, part=split not in WHOLE_SPLITS)


def _weights_columns(found: WeightsEstimate | None, *, withheld: bool = False) -> dict[str, float]:
    """Return what the table has of alignment in the weights.

    Args:
        found: of the arm and split.
        withheld: whether to give intervals alone, as for parts of the tokens in few questions.
    """
    cosine = UNKNOWN if found is None or not found.gain.bounded else cosine_finding(found.cosine)
    numbers = {"weights": cosine}
    for name in (
        "gain", "gain_one", "product", "shared", "between", "within", "shared_share", "adamw",
        "adamw_one",
    ):  # fmt: skip
        number = UNKNOWN if found is None else getattr(found, name)
        if isinstance(number, RatioSet):
            ends = (number.value, number.low, number.high)
            number = Estimate(*ends) if number.bounded else UNKNOWN
        numbers[f"weights_{name}"] = number
    columns: dict[str, float] = {}
    for name, number in numbers.items():
        columns |= number.columns(name, f"{name}_") | ({name: math.nan} if withheld else {})
    return columns


def _mean_of_cosines(sums: Floats) -> Floats:
    """Mean of cosines; those that cancel leave a residue of rounding, which is 0."""
    mean = mean_of_sums(sums)
    return np.where(np.abs(mean) <= ZERO_NORM, 0.0, mean)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else np.nan


TOTALS = (
    "questions",
    "spines",
    "correct_spines",
    "spine_tokens",
    "nodes",
    "branches",
    "continuations",
    "continuation_tokens",
    "truncated",
    "skipped_pairs",
    "other_allocation",
)


def _rules(run: Run, shard: str) -> Counter[str]:
    """Count by which rules a shard's responses were read, where the verifier tells."""
    spines = run.folder.read_table("spines", shard)
    if "read_by" not in spines.column_names:  # of an older version
        return Counter()
    return Counter(rule for rule in spines["read_by"].to_pylist() if rule is not None)


def _totals(run: Run, shard: str) -> Counter[str]:
    """Count what a shard's tables hold; the same however often the run was interrupted."""
    spines = run.folder.read_table("spines", shard).to_pandas()
    made = run.folder.read_table("continuations", shard)
    cut = made["finish_reason"].to_pandas().astype(str) == "length"
    shown = sum(
        len(pc.unique(run.folder.read_table("tokens", teacher_file(shard, item.label))["spine_id"]))
        for item in run.read_teachers
    )
    kinds = Counter(
        f"verifier_{kind}"
        for column in (spines["verifier_error"], made["verifier_error"].to_pandas())
        for kind in column.astype(str)
        if kind
    )
    return kinds + Counter(
        questions=len(run.folder.read_table("questions", shard)),
        spines=len(spines),
        correct_spines=int(outcome_splits(spines["correct"])["correct"].sum()),
        spine_tokens=int(spines["num_tokens"].sum()),
        nodes=len(run.folder.read_table("nodes", shard)),
        other_allocation=sum(run.folder.read_table("nodes", shard)["other_allocation"].to_pylist()),
        branches=len(run.folder.read_table("branches", shard)),
        continuations=len(made),
        continuation_tokens=len(made["token_ids"].combine_chunks().flatten()),
        truncated=int((spines["finish_reason"] == "length").sum() + cut.sum()),
        skipped_pairs=len(spines) * len(run.read_teachers) - shown,
    )
