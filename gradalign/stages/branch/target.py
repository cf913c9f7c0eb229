"""Rollouts until the pooled alignment is known well enough: `--target-se`.

More rollouts lower the part of the standard error that their own noise causes; the part that
questions cause by being different is lowered by more questions only. What is estimated here is
the first part, for the plainest direction there is, the forward KL (Q - P) of each teacher.
Axes: _N nodes, _C candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradalign.alignment.ideal import covariance, ideal_gradient, noise_trace, renormalise
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.branch.question import QuestionWork

Floats = npt.NDArray[np.float64]

CAP = 10
"""Without --budget, a question gets at most this many times its planned continuations."""


class Target:
    """Decides after each round whether a shard's questions need further continuations.

    Args:
        run: the run; its `target_se` must be set.
        shard: the shard, whose distributions are there.
        work: its questions, after their planned rounds.
    """

    def __init__(self, run: Run, shard: str, work: list[QuestionWork]) -> None:
        self._target = float(run.config.target_se or 0.0)
        self._shards = len(run.shards())
        self._work = work
        self._caps = [run.config.budget or CAP * item.branching.budget for item in work]
        self._teachers = [
            _teacher_probs(run, shard, teacher.label, work) for teacher in run.named_teachers
        ]

    def standard_error(self) -> float:
        """Return the largest over teachers of the rollouts' part of the pooled alignment's error.

        The shard stands for all: with S shards alike, the run's error is 1/sqrt(S) of its own.
        Infinite while nothing is known of the ideal gradient's length.
        """
        worst = 0.0
        tables = [item.branching.estimates() for item in self._work]
        for probs in self._teachers:
            noise = ideal = method = 0.0
            for table, q_NC in zip(tables, probs, strict=True):
                p_NC, mask_NC = table.prob_NC, table.mask_NC
                if not mask_NC.any():
                    continue
                weight_N = 1.0 / table.inclusion_prob_N
                tilde_NC = renormalise(p_NC, mask_NC)
                m_NC = np.where(mask_NC, renormalise(q_NC, mask_NC) - tilde_NC, 0.0)
                spread_NCC = covariance(p_NC, table.var_NC, mask_NC)
                g_NC = ideal_gradient(p_NC, table.value_NC, mask_NC)
                along_N = np.einsum("nc,ncd,nd->n", m_NC, spread_NCC, m_NC)
                trace_N = noise_trace(p_NC, table.var_NC, mask_NC)
                noise += float((weight_N**2 * along_N).sum())
                ideal += float((weight_N * ((g_NC**2).sum(axis=1) - trace_N)).sum())
                method += float((weight_N * (m_NC**2).sum(axis=1)).sum())
            if method > 0.0:
                found = np.sqrt(max(noise, 0.0) / (ideal * method)) if ideal > 0 else np.inf
                worst = max(worst, float(found))
        return float(worst / np.sqrt(self._shards))

    def extend(self) -> bool:
        """Plan another round where there is budget, if the target is not met; say whether."""
        if self.standard_error() <= self._target:
            return False
        extended = False
        for item, cap in zip(self._work, self._caps, strict=True):
            made = len(item.results)
            more = min(made, cap - made)  # each further round doubles what there is
            if more > 0:
                item.branching.extend(more)
                extended = extended or not item.branching.done
        return extended


def _teacher_probs(run: Run, shard: str, label: str, work: list[QuestionWork]) -> list[Floats]:
    """Return a teacher's probability of every candidate, [N, C] per question; 0 if not known."""
    table = run.folder.read_table("distributions", teacher_file(shard, label))
    ids, logprobs = (table[name].combine_chunks() for name in ("token_ids", "teacher_logprobs"))
    row_of = {
        key: row
        for row, key in enumerate(
            zip(table["spine_id"].to_pylist(), table["position"].to_pylist(), strict=True)
        )
    }
    found = []
    for item in work:
        tokens_NC = item.branching.estimates().token_ids_NC
        q_NC = np.zeros(tokens_NC.shape)
        for n, plan in enumerate(item.branching.plans):
            row = row_of.get((item.spines[plan.spine].spine_id, plan.position))
            if row is None:
                continue
            support = ids[row].values.to_numpy()
            slot = np.searchsorted(support, tokens_NC[n])
            slot = np.minimum(slot, len(support) - 1)
            here = support[slot] == tokens_NC[n]
            q = np.exp(logprobs[row].values.to_numpy(zero_copy_only=False).astype(np.float64))
            q_NC[n] = np.where(here & ~np.isnan(q[slot]), q[slot], 0.0)
        found.append(q_NC)
    return found
