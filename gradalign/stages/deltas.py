"""Teachers that are the difference of two others: made of their tables, without a model.

Q is P exp(a (log Q_A - log Q_B)) over its sum. At a node that is known on the tokens that both
teachers' tables have; all other tokens are one, with the mass that each of the three gives them.
Where one of the two is the plain student, which says P, it is known on all tokens of the other:
far from the student, where a strength above 1 puts mass, that is many more. Axes: _S tokens of a
node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign.contexts import DeltaSpec, parse_teacher
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.stages.distributions import tempering
from gradalign.store.table_builder import Rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DeltaTables:
    """The tables of every teacher that is a difference: `tokens`, and last `distributions`."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "subtract teachers"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether every difference's distributions are there."""
        return all(
            run.folder.has_table("distributions", teacher_file(shard, delta.label))
            for delta in run.deltas
        )

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold nothing."""

        def work(shard: str, tick: Tick) -> Counter[str]:
            spines = len(run.folder.read_table("spines", shard).select(["spine_id"]))
            nodes = 0
            for delta in run.deltas:
                if not run.folder.has_table("distributions", teacher_file(shard, delta.label)):
                    nodes += _write(run, delta, shard)
                tick(spines, spines, spines)
            return Counter(subtracted_nodes=nodes)

        yield work


def difference(log_p_S: Floats, log_a_S: Floats, log_b_S: Floats, strength: float) -> Floats:
    """Return log Q of Q proportional to P exp(strength (log A - log B)), [S].

    Args:
        log_p_S: log P, of all tokens together 0; -inf where there is no mass.
        log_a_S: log A. Where A has no mass, neither has Q.
        log_b_S: log B. Where it has no mass and A has, no ratio is known: there Q follows P.
        strength: the factor of the difference.
    """
    with np.errstate(invalid="ignore"):
        gap_S = log_a_S - log_b_S
    gap_S = np.where(np.isneginf(log_b_S), 0.0, gap_S)
    gap_S = np.where(np.isneginf(log_a_S), -np.inf, gap_S)
    raw_S = np.where(np.isneginf(log_p_S), -np.inf, log_p_S + strength * gap_S)
    return np.asarray(raw_S - np.logaddexp.reduce(raw_S))


def _write(run: Run, delta: DeltaSpec, shard: str) -> int:
    """Write a difference's tables of a shard; return how many nodes it has there."""
    labels = (delta.first, delta.second)
    files = [teacher_file(shard, label) for label in labels]
    first, second = (_by_node(run.folder.read_table("distributions", name)) for name in files)
    plain = [_says_p(run, label) for label in labels]
    if plain == [False, True]:
        second = {name: _as_student(row) for name, row in first.items() if name in second}
    elif plain == [True, False]:
        first = {name: _as_student(row) for name, row in second.items() if name in first}
    size, temperatures = run.compared_tokens(delta.label).size, tempering(run)
    nodes = [
        _node(row, second[name], delta, size, temperatures)
        for name, row in first.items()
        if name in second
    ]
    rows = Rows("distributions")
    if nodes:
        rows.add(len(nodes), **{key: [node[key] for node in nodes] for key in nodes[0]})
    own = teacher_file(shard, delta.label)
    tokens, others = (run.folder.read_table("tokens", name) for name in files)
    run.folder.write_table("tokens", own, _tokens(tokens, others, delta.label, nodes))
    run.folder.write_table("distributions", own, rows.table_of())
    return len(nodes)


def _says_p(run: Run, label: str) -> bool:
    """Whether a teacher's distribution is the student's own, P."""
    spec = parse_teacher(label)
    same = run.model_of(spec) == run.config.student and spec.context == "none"
    return same and run.sampling.is_plain


def _as_student(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of another teacher with the student in its place."""
    return {
        **row,
        "teacher_logprobs": row["student_logprobs"],
        "teacher_log_tail": row["student_log_tail"],
    }


def _by_node(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {str(row["node_id"]): row for row in table.to_pylist()}


def _node(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    delta: DeltaSpec,
    size: int,
    temperatures: list[float],
) -> dict[str, Any]:
    """Return the row of `distributions` at a node, from those of both teachers.

    A token of which one teacher's server said nothing, or that only B gives no mass, is null. As
    for other teachers, Q's tail includes its mass and P's does not.
    """
    ids_S, in_first, in_second = np.intersect1d(
        first["token_ids"], second["token_ids"], assume_unique=True, return_indices=True
    )
    log_p, log_a, log_b = (
        np.array(values, dtype=np.float64)  # null becomes NaN
        for values in (
            first["student_logprobs"],
            first["teacher_logprobs"],
            second["teacher_logprobs"],
        )
    )
    a_S, b_S = log_a[in_first], log_b[in_second]
    known_S = np.isfinite(b_S) & ~np.isnan(a_S) | np.isneginf(a_S) & np.isneginf(b_S)
    in_p, in_a, in_b = in_first[known_S], in_first[known_S], in_second[known_S]
    rest = [
        _with_rest(values, kept, float(tail))
        for values, kept, tail in (
            (log_p, in_p, first["student_log_tail"]),
            (log_a, in_a, first["teacher_log_tail"]),
            (log_b, in_b, second["teacher_log_tail"]),
        )
    ]
    log_q = difference(
        np.r_[log_p[in_p], rest[0]],
        np.r_[log_a[in_a], rest[1]],
        np.r_[log_b[in_b], rest[2]],
        delta.strength,
    )
    log_q_S = np.full(len(ids_S), np.nan)
    log_q_S[known_S] = log_q[:-1]
    powers = zip(temperatures, first["student_tail_powers"], strict=True)
    return {
        **{name: first[name] for name in ("question_id", "spine_id", "position", "node_id")},
        "teacher": delta.label,
        "token_ids": ids_S.astype(np.int32),
        "student_logprobs": log_p[in_first].astype(np.float32),
        "teacher_logprobs": log_q_S.astype(np.float32),
        "student_log_tail": _with_rest(log_p, in_first, float(first["student_log_tail"])),
        "teacher_log_tail": float(log_q[-1]),
        "num_tail": max(size - len(ids_S), 0),
        "student_tail_powers": [_with_rest(log_p / t, in_first, power) for t, power in powers],
        "teacher_tail_powers": [np.nan] * len(temperatures),  # how the rest is spread is not known
    }


def _with_rest(values: Floats, kept: npt.NDArray[np.intp], tail: float) -> float:
    """Return the log of the mass of a tail and of the known tokens that are not kept."""
    left = np.delete(values, kept)
    return float(np.logaddexp.reduce(np.r_[left[~np.isnan(left)], tail]))


def _tokens(first: pa.Table, second: pa.Table, label: str, nodes: list[dict[str, Any]]) -> pa.Table:
    """Return the table `tokens`: positions that both teachers read, with log Q at the nodes.

    Elsewhere Q is not known, as its sum over the tokens is not.
    """
    shared = set(second["spine_id"].to_pylist())
    names = first["spine_id"].to_pylist()
    table = first.filter(pa.array([name in shared for name in names], pa.bool_()))
    place = zip(table["spine_id"].to_pylist(), table["position"].to_pylist(), strict=True)
    row_of = {key: row for row, key in enumerate(place)}
    drawn, logprob_L = table["token_id"].to_pylist(), np.full(len(table), np.nan)
    for node in nodes:
        row = row_of[node["spine_id"], node["position"]]
        found = node["teacher_logprobs"][node["token_ids"] == drawn[row]]
        logprob_L[row] = found[0] if len(found) else np.nan
    rows = Rows("tokens")
    same = ("question_id", "spine_id", "position", "token_id", "token", "special")
    columns: dict[str, Any] = dict.fromkeys(table.column_names, np.nan)
    columns |= {name: table[name] for name in (*same, "student_logprob", "student_entropy")}
    columns |= {"teacher": label, "teacher_logprob": logprob_L}
    rows.add(len(table), **columns)
    return rows.table_of()
