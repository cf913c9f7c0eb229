"""How much student and teacher look at the same tokens, and how far apart they are.

Source: "Rethinking On-Policy Distillation" (arXiv 2604.13016); the overlap of every position is in
the table `tokens` (`gradalign.alignment.overlap`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from gradalign.analysis.node_views import ShardViews
from gradalign.diagnostics.base import (
    Advice,
    Consequence,
    Diagnostic,
    Figures,
    spine_positions,
)
from gradalign.diagnostics.collector import Collector, FigureKey
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.estimates import Estimate
from gradalign.stages.base import Run, teacher_file
from gradalign.store.table_builder import Rows

TABLE = "diagnostics"

FROM_TOKENS = (
    "overlap_ratio",
    "overlap_mass_student",
    "overlap_mass_teacher",
    "overlap_advantage",
    "overlap_advantage_verl",
)

FIGURES = (*FROM_TOKENS, "entropy_gap")

LOW_MASS = 0.9
"""Below this share of the student's mass on shared top tokens the models look at other tokens."""


@dataclass(frozen=True)
class OverlapTable:
    """Overlap, entropy gap and divergences at the nodes; `predictors` reads them too."""

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there."""
        return run.folder.has_table(TABLE, shard)

    def write(self, views: ShardViews) -> Counter[str]:
        """See TableWriter."""
        run, nodes = views.run, views.nodes
        names = {name: nodes.ids(name) for name in ("question_id", "spine_id", "node_id")}
        correct, position = nodes.column("correct"), nodes.column("position")
        rows = Rows("diagnostics")
        for teacher in run.teachers:
            view = views.teacher(teacher.label)
            tokens = run.folder.read_table(
                "tokens", teacher_file(views.shard, teacher.label)
            ).to_pandas()
            tokens = tokens.assign(spine_id=tokens["spine_id"].astype(str)).set_index(
                ["spine_id", "position"]
            )
            at = view.rows
            here = tokens.loc[[(names["spine_id"][n], int(position[n])) for n in at]]
            batch = view.batch
            p = (batch.log_p_NS, batch.log_tail_p_N)
            q = (batch.log_q_NS, batch.log_tail_q_N)
            rows.add(
                len(at),
                **{name: [ids[n] for n in at] for name, ids in names.items()},
                position=position[at],
                teacher=teacher.label,
                correct=correct[at],
                **{name: here[name].to_numpy() for name in FROM_TOKENS},
                entropy_gap=np.abs(here["teacher_entropy"] - here["student_entropy"]).to_numpy(),
                sampled_log_ratio=(here["teacher_logprob"] - here["student_logprob"]).to_numpy(),
                reverse_kl=kl_divergence(*p, *q),
                forward_kl=kl_divergence(*q, *p),
            )
        run.folder.write_table(TABLE, views.shard, rows.table_of())
        return Counter(diagnosed_nodes=len(nodes.row_of) * len(run.teachers))


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add the overlap at every position of every spine."""
    if not run.folder.has_table(TABLE, shard):
        return
    for teacher, frame, question, splits in spine_positions(run, shard):
        frame["entropy_gap"] = np.abs(frame["teacher_entropy"] - frame["student_entropy"])
        for name in FIGURES:
            value = frame[name].to_numpy(dtype=np.float64)
            into.mean(FigureKey("overlap", teacher, name), question, value, splits)


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say it of the student's mass on shared tokens."""
    key = FigureKey("overlap", teacher, "overlap_mass_student")
    return {key: overlap_advice(figures.splits(key)["all"])} if key in figures else {}


def overlap_advice(mass: Estimate) -> Advice:
    """Say what the student's mass on the shared top 16 tokens means."""
    if mass.high < LOW_MASS:
        return Advice(
            f"Only {mass.value:.0%} of the student's mass lies on tokens that both models have "
            "among their top 16: warm the student up on responses of this teacher, or take one "
            "of the same family.",
            Consequence.CHANGE_TEACHER,
        )
    if mass.low >= LOW_MASS:
        return Advice(
            f"Both models look at the same tokens ({mass.value:.0%} of the student's mass is on "
            "shared top 16 tokens): a lack of alignment has another cause.",
            Consequence.NOTHING,
        )
    return Advice(
        f"{mass.value:.0%} of the student's mass lies on shared tokens, with an interval on both "
        f"sides of {LOW_MASS:.0%}: score more questions before changing anything.",
        Consequence.MORE_DATA,
    )


DIAGNOSTIC = Diagnostic(collect, advise, writers=lambda run: (OverlapTable(),))
