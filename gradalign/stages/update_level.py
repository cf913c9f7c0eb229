"""Update-level alignment of a finished run: one more pass of the student, no sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign import methods
from gradalign.alignment.update import UpdateGrams, Updates, question_gram, update_alignment
from gradalign.config import ScoreConfig
from gradalign.errors import RunError
from gradalign.ideal import ideal_gradient
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.report.folder import RunFolder
from gradalign.runlog import RunLog
from gradalign.stages.align import NO_TEACHER, on_candidates
from gradalign.stages.base import Resolved, Run
from gradalign.stages.distribute import student_sequences, tempering
from gradalign.stages.node_arrays import ShardNodes, read_nodes, student_only, with_teacher

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Part:
    """A shard's nodes: candidates, hidden states, questions, and directions on the candidates."""

    token_NC: Ints
    hidden_ND: Floats
    question_N: npt.NDArray[np.object_]
    direction_KNC: dict[tuple[str, str], Floats]


IDEAL = ("", "")
"""Key of the ideal gradient among the directions, which are keyed by (teacher, method)."""


def update_level(path: str) -> pd.DataFrame:
    """Compute update-level alignment for every teacher and method of a finished run.

    The output layer's update of each is compared with the ideal one: see
    `gradalign.alignment.update`. Nodes are weighted by their inclusion probability; a node that
    a method has no direction at, or that a teacher was not shown, counts as zero. Methods that use
    continuations need no cross-fitting, as only different questions are paired.

    Args:
        path: the run's folder or fsspec URL.

    Returns:
        One row per teacher and method: teacher ("" for methods without one), method, update,
        update_low, update_high, num_questions, num_nodes.

    Raises:
        RunError: no run is there, or one that is not finished.
        ModelError: the student cannot be loaded.
    """
    log = RunLog.load(RunFolder(path))
    if log.data.get("status") != "done":
        raise RunError(
            f"{path} is not finished (status: {log.data.get('status')}).",
            "Run its `gradalign score` command again first.",
        )
    run = Run(ScoreConfig.build({**log.config, "output_dir": path}), Resolved(**log.resolved))
    with _hidden_reader(run) as read:
        parts = [_part(run, shard, read(shard)) for shard in run.shards()]
    names, question_N = np.unique(
        np.concatenate([part.question_N for part in parts]).astype(str), return_inverse=True
    )
    token_NC = _stack([part.token_NC for part in parts], -1)
    hidden_ND = np.concatenate([part.hidden_ND for part in parts])

    def updates(key: tuple[str, str]) -> Updates:
        direction_NC = _stack([part.direction_KNC[key] for part in parts], 0.0)
        return Updates(token_NC, direction_NC, hidden_ND, question_N)

    ideal = updates(IDEAL)
    ideal_QQ = question_gram(ideal, ideal, len(names))
    rows = []
    for teacher, method in (key for key in parts[0].direction_KNC if key != IDEAL):
        own = updates((teacher, method))
        grams = UpdateGrams(
            cross_QQ=question_gram(ideal, own, len(names)),
            ideal_QQ=ideal_QQ,
            method_QQ=question_gram(own, own, len(names)),
        )
        interval = update_alignment(
            grams, seed=run.config.seed, num_resamples=run.config.bootstrap_resamples
        )
        rows.append(
            {
                "teacher": teacher,
                "method": method,
                "update": interval.estimate,
                "update_low": interval.low,
                "update_high": interval.high,
                "num_questions": len(names),
                "num_nodes": len(token_NC),
            }
        )
    return pd.DataFrame(rows)


def _part(run: Run, shard: str, hidden_of: dict[str, Floats]) -> _Part:
    """Collect one shard's directions on the candidates, weighted by inclusion."""
    nodes = read_nodes(run, shard)
    weight_N1 = 1.0 / nodes.column("inclusion_prob")[:, None]
    ideal_NC = ideal_gradient(nodes.prob_NC, nodes.value_NC, nodes.mask_NC)
    directions: dict[tuple[str, str], Floats] = {IDEAL: ideal_NC * weight_N1}
    for teacher, method, m_NC in _directions(run, shard, nodes):
        directions[teacher, method] = m_NC * weight_N1
    position_N = nodes.column("position").astype(np.int64)
    hidden_ND = np.stack(
        [
            hidden_of[spine][position]
            for spine, position in zip(nodes.ids("spine_id"), position_N, strict=True)
        ]
    )
    return _Part(
        token_NC=np.where(nodes.mask_NC, nodes.token_NC, -1),
        hidden_ND=hidden_ND,
        question_N=np.array(nodes.ids("question_id"), dtype=object),
        direction_KNC=directions,
    )


def _directions(run: Run, shard: str, nodes: ShardNodes) -> Iterator[tuple[str, str, Floats]]:
    """Yield (teacher, method, directions on the candidates of all nodes)."""
    chosen = [methods.get(spec) for spec in run.config.methods]
    views = [(NO_TEACHER, student_only(run, shard, nodes), False)]
    temperatures = tempering(run)
    for teacher in run.teachers:
        view = with_teacher(run, shard, nodes, teacher.label, temperatures)
        views.append((teacher.label, view, True))
    for label, view, has_teacher in views:
        for method in chosen:
            if ("teacher" in method.needs) == has_teacher:
                m_NC = np.zeros(nodes.mask_NC.shape)
                ascent_NS = method.ascent(view.batch)
                m_NC[view.rows] = on_candidates(ascent_NS, view, nodes.mask_NC[view.rows])
                yield label, method.spec, m_NC


@contextmanager
def _hidden_reader(run: Run) -> Iterator[Any]:
    """Hold the student; yield a function from a shard to {spine id: hidden states [L, D]}."""
    config = run.config
    with loaded_model(config.student, **run.model_options(config.student)) as model:
        caught: list[Any] = []
        layer: Any = model.get_output_embeddings()  # type: ignore[operator]
        hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))

        def read(shard: str) -> dict[str, Floats]:
            spines, sequences = student_sequences(run, shard)
            found: dict[str, Floats] = {}
            for spine, sequence in zip(spines, sequences, strict=True):
                caught.clear()
                found[spine.spine_id] = _hidden(model, sequence, caught)
            return found

        try:
            yield read
        finally:
            hook.remove()


def _hidden(model: Any, sequence: ForcedSequence, caught: list[Any]) -> Floats:
    """What the output layer reads where each response token is predicted, [L, D]."""
    length = len(sequence.response_ids)
    for _ in forced_log_probs(model, [sequence]):
        pass
    if not caught:  # an empty response has no position
        return np.zeros((0, 0))
    hidden = caught[0][0, -length - 1 : -1].double().cpu().numpy()
    return np.asarray(hidden, dtype=np.float64)


def _stack(parts: list[npt.NDArray[Any]], fill: float) -> npt.NDArray[Any]:
    """Put parts of different widths on top of each other."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts]
    )
