"""What else is said to predict which teacher trains well: a row per teacher, beside alignment.

Each costs less than targeted rollouts, so alignment has to say more than it does. They are rows of
the diagnostics' summary, because they are of a teacher, whatever the method; the summary of
alignment has a row per method. `predictors` ranks what is known of single positions, position in
the response among them, which is the same for every teacher.

| rival | what it is | source |
| --- | --- | --- |
| reverse_kl, forward_kl | KL(P||Q) and KL(Q||P) over the student's responses | arXiv 2306.13649 |
| overlap_ratio | share of the top 16 tokens of both models that coincide | arXiv 2604.13016 |
| entropy_difference | H(Q) - H(P) over the student's responses: the entropy gap with its sign | |
| teacher_advantage | sum of (q - p) V over the candidates; costs the rollouts | arXiv 2605.10889 |
| accuracy | how often the teacher is right by itself, shown its context | |
| accuracy_gap | that less the student's success on the same questions | arXiv 2605.30070 |
| grace | stability of the student's gradients on the teacher's answers; low is good | 2511.02833 |

Means are over all positions of the responses: nodes count by one over the probability with which
they were chosen. A node where Q lacks a token that P has (or the other way round) has no finite
divergence, and is left out of it. Accuracies are there if `--teacher-accuracy` asked for them, and
GRACE if `--alignment weights` did too; it has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradalign.alignment.grace import grace
from gradalign.diagnostics.base import (
    Advice,
    Diagnostic,
    Figures,
    counted_rows,
    spine_positions,
)
from gradalign.diagnostics.collector import Collector, Figure, FigureKey, questions_of
from gradalign.diagnostics.overlap import TABLE, OverlapTable
from gradalign.estimates import Estimate
from gradalign.stages.answers import TABLE as ANSWERS
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.weights.answer_gradients import TABLE as GRADIENTS
from gradalign.store.shard import padded
from gradalign.store.splits import outcome_splits

MECHANISM = "rivals"


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add every rival that the shard has tables for."""
    if run.folder.has_table(TABLE, shard):
        _at_positions(run, shard, into)
        _at_nodes(run, shard, into)
    for teacher in run.teachers:
        if run.folder.has_table(ANSWERS, teacher_file(shard, teacher.label)):
            _answers(run, shard, teacher.label, into)


def _at_positions(run: Run, shard: str, into: Collector) -> None:
    """Add what is known at every position."""
    for teacher, frame, question, splits in spine_positions(run, shard):
        rise = frame["teacher_entropy"] - frame["student_entropy"]
        for name, value in (
            ("overlap_ratio", frame["overlap_ratio"]),
            ("entropy_difference", rise),
        ):
            key = FigureKey(MECHANISM, teacher, name)
            into.mean(key, question, value.to_numpy(dtype=np.float64), splits)


def _at_nodes(run: Run, shard: str, into: Collector) -> None:
    """Add what is known at the nodes."""
    nodes = run.folder.read_table("nodes", shard).select(["node_id", "inclusion_prob"]).to_pandas()
    inclusion = dict(zip(nodes["node_id"].astype(str), nodes["inclusion_prob"], strict=True))
    for table, names in (
        (TABLE, ("reverse_kl", "forward_kl")),
        ("alignment", ("teacher_advantage",)),
    ):
        frame = counted_rows(run, shard, table)
        # The advantage is of a teacher: every method's row has the same.
        frame = frame.drop_duplicates(["node_id", "teacher"])
        frame = frame[frame["teacher"].astype(str) != ""]
        for teacher, part in frame.groupby("teacher", sort=False, observed=True):
            weight_N = 1.0 / part["node_id"].astype(str).map(inclusion).to_numpy(dtype=np.float64)
            splits = outcome_splits(part["correct"].to_numpy())
            for name in names:
                into.mean(
                    FigureKey(MECHANISM, str(teacher), name),
                    questions_of(part),
                    part[name].to_numpy(dtype=np.float64),
                    splits,
                    weight_N,
                )


def _answers(run: Run, shard: str, label: str, into: Collector) -> None:
    """Add a teacher's accuracy, and what it is beyond the student's on the same questions."""
    found = run.folder.read_table(ANSWERS, teacher_file(shard, label)).to_pandas()
    spines = run.folder.read_table("spines", shard).select(["question_id", "reward"]).to_pandas()
    own = spines.assign(question_id=spines["question_id"].astype(str))
    success = own.groupby("question_id")["reward"].mean()
    reward_N = found["reward"].to_numpy(dtype=np.float64)
    gap_N = reward_N - found["question_id"].astype(str).map(success).to_numpy(dtype=np.float64)
    splits = {"all": np.ones(len(found), dtype=np.bool_)}
    for name, value_N in (("accuracy", reward_N), ("accuracy_gap", gap_N)):
        into.mean(FigureKey(MECHANISM, label, name), questions_of(found), value_N, splits)


def figures(run: Run) -> list[Figure]:
    """Return GRACE of every teacher whose answers have gradients."""
    found = []
    for teacher in run.teachers:
        parts = [
            padded(run.folder.read_table(GRADIENTS, name)["sketch"], 0.0)[0]
            for name in (teacher_file(shard, teacher.label) for shard in run.shards())
            if run.folder.has_table(GRADIENTS, name)
        ]
        gradient_QD = np.concatenate([part for part in parts if len(part)] or [np.zeros((0, 1))])
        if len(gradient_QD):
            key = FigureKey(MECHANISM, teacher.label, "grace")
            found.append(Figure(key, "all", len(gradient_QD), Estimate(grace(gradient_QD))))
    return found


def advise(teacher: str, figures: Figures) -> Mapping[FigureKey, Advice]:
    """Say nothing: rivals stand beside the verdict, which goes by what predicts better."""
    return {}


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (OverlapTable(),), figures=figures)
