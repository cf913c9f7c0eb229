"""Token level against sequence level at every node, for several discounts of the future."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from gradalign import methods
from gradalign.analysis.align import on_candidates, score_nodes
from gradalign.analysis.node_views import Floats, ShardNodes, TeacherNodes, read_nodes, with_teacher
from gradalign.diagnostics.horizon import GAMMAS, bias2, spec
from gradalign.diagnostics.nodes import ideal_columns, key_columns
from gradalign.methods import Method
from gradalign.stages.base import Run, Tick, Work
from gradalign.stages.distributions import tempering
from gradalign.store.table_builder import Rows

TABLE = "diagnostics_horizon"


class DiagnoseHorizon:
    """Bias and variance of the reverse KL's estimators, from gamma = 0 to gamma = 1.

    Args:
        scored: whether the teachers' scores of the continuations are there although no method
            of the run needs them. Without them only gamma = 0 can be done.
    """

    name = "diagnose horizon"
    unit = "directions"

    def __init__(self, *, scored: bool = False) -> None:
        self._scored = scored

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's rows are there, those with a future included if there is one."""
        if not run.folder.has_table(TABLE, shard):
            return False
        table = run.folder.read_table(TABLE, shard)
        if not self._of(run).needs_continuation_scores or not len(table):
            return True
        return bool(np.isfinite(table["sequence_norm2"].to_numpy()).any())

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Nothing to hold."""
        yield lambda shard, tick: _shard(self._of(run), shard, tick)

    def _of(self, run: Run) -> Run:
        """Return the run as if some method of it looked ahead, if there are scores to look at."""
        if not self._scored or run.needs_continuation_scores:
            return run
        ahead = [*run.config.methods, spec(1.0)]
        return replace(run, config=run.config.model_copy(update={"methods": ahead}))


def special_ids(run: Run) -> list[int]:
    """Return the ids of special and template tokens, and of those that end a response."""
    return sorted({*run.resolved.special_token_ids, *run.resolved.stop_token_ids})


def _shard(run: Run, shard: str, tick: Tick) -> Counter[str]:
    nodes = read_nodes(run, shard)
    rows = Rows(TABLE)
    gammas = GAMMAS if run.needs_continuation_scores else GAMMAS[:1]
    for done, teacher in enumerate(run.teachers, start=1):
        view = with_teacher(run, shard, nodes, teacher.label, tempering(run))
        at = view.rows
        drawn_N = nodes.column("sampled_token_id")[at]
        ratio_N = view.batch.at(1.0).r_NS[np.arange(len(at)), np.maximum(view.batch.sampled_N, 0)]
        shared = {
            **key_columns(nodes, at),
            **ideal_columns(nodes, view),
            "teacher": teacher.label,
            "special": np.isin(drawn_N, special_ids(run)),
            "sampled_log_ratio": np.where(view.batch.sampled_N >= 0, ratio_N, np.nan),
        }
        sequence_HNC = _halves(nodes, view, methods.get(spec(1.0))) if len(gammas) > 1 else None
        for gamma in gammas:
            method = methods.get(spec(gamma))
            scores = score_nodes(nodes, view, method)
            bias_N = norm_N = np.full(len(at), np.nan)
            if sequence_HNC is not None:
                bias_N = bias2(_halves(nodes, view, method), sequence_HNC)
                norm_N = (sequence_HNC[0] * sequence_HNC[1]).sum(axis=-1)
            rows.add(
                len(at),
                **shared,
                gamma=gamma,
                cosine=scores.cosine,
                dot=scores.dot,
                method_norm2=scores.method_norm2,
                bias2=bias_N,
                sequence_norm2=norm_N,
                variance=method.squared_deviation(view.batch),
            )
        tick(done * len(gammas), len(run.teachers) * len(gammas), len(at) * len(gammas))
    run.folder.write_table(TABLE, shard, rows.table_of())
    return Counter(horizon_nodes=len(nodes.row_of) * len(run.teachers))


def _halves(nodes: ShardNodes, view: TeacherNodes, method: Method) -> Floats:
    """Return a direction on the candidates from each half of the continuations, [2, N, C].

    Candidates that a half did not measure are left out of both.
    """
    both_NC = view.mask_NC & np.isfinite(nodes.half_value_HNC[:, view.rows]).all(axis=0)
    return np.stack(
        [on_candidates(method.ascent(view.batch.half(h)), view, both_NC) for h in (0, 1)]
    )
