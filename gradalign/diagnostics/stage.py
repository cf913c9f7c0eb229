"""Stage 5b: per node and teacher, what might explain the alignment. Arrays only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gradalign.analysis.node_views import read_nodes, with_teacher
from gradalign.diagnostics.divergence import kl_divergence
from gradalign.stages.base import Run, Tick, Work, teacher_file
from gradalign.stages.distributions import tempering
from gradalign.store.table_builder import Rows

FROM_TOKENS = (
    "overlap_ratio",
    "overlap_mass_student",
    "overlap_mass_teacher",
    "overlap_advantage",
    "overlap_advantage_verl",
)


class Diagnose:
    """Collect overlap, entropy gap and divergences at the nodes."""

    name = "diagnose"
    unit = "nodes"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's diagnostics are there."""
        return run.folder.has_table("diagnostics", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""
        yield lambda shard, tick: _diagnose_shard(run, shard, tick)


def _diagnose_shard(run: Run, shard: str, tick: Tick) -> Counter[str]:
    nodes = read_nodes(run, shard)
    names = {name: nodes.ids(name) for name in ("question_id", "spine_id", "node_id")}
    correct, position = nodes.column("correct"), nodes.column("position")
    rows = Rows("diagnostics")
    for done, teacher in enumerate(run.teachers, start=1):
        view = with_teacher(run, shard, nodes, teacher.label, tempering(run))
        tokens = run.folder.read_table("tokens", teacher_file(shard, teacher.label)).to_pandas()
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
        tick(done, len(run.teachers), len(at))
    run.folder.write_table("diagnostics", shard, rows.table_of())
    return Counter(diagnosed_nodes=len(nodes.row_of) * len(run.teachers))
