"""What every diagnostic is made of: a table of nodes, figures of the summary, and advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign.alignment import node_sums
from gradalign.alignment.ideal import ideal_gradient, unbiased_norm2
from gradalign.analysis.node_views import Bools, Floats, Ints, NodeTable, NodeView
from gradalign.analysis.stage import TableWriter
from gradalign.analysis.whole import WholeDirection
from gradalign.diagnostics.collector import Collector, Figure, FigureKey, questions_of
from gradalign.estimates import Estimate
from gradalign.stages.base import Run, Stage, teacher_file
from gradalign.store.splits import outcome_splits, position_splits

SMALL = 0.05
"""Differences of success or alignment below this are not worth an action."""


class Consequence(IntEnum):
    """What follows from a finding, the gravest last."""

    NOTHING = 0
    MORE_DATA = 1
    COULD_GAIN = 2
    CHANGE_LOSS = 3
    CHANGE_TEACHER = 4


class Advice(NamedTuple):
    """What to do about a figure."""

    text: str
    consequence: Consequence


class Figures:
    """The figures of a run's summary, as advice looks them up."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self._by_key: dict[FigureKey, dict[str, Estimate]] = {}
        for figure in figures:
            self._by_key.setdefault(figure.key, {})[figure.split] = figure.estimate

    def __contains__(self, key: FigureKey) -> bool:
        return key in self._by_key

    @property
    def teachers(self) -> list[str]:
        """Every teacher that a figure is of."""
        return list(dict.fromkeys(key.teacher for key in self._by_key))

    def splits(self, key: FigureKey) -> dict[str, Estimate]:
        """Return a figure in every split; empty if there is none."""
        return self._by_key.get(key, {})

    def variants(self, mechanism: str, teacher: str, diagnostic: str) -> dict[str, Estimate]:
        """Return the variants of a figure over all nodes."""
        return {
            key.variant: splits["all"]
            for key, splits in self._by_key.items()
            if (key.mechanism, key.teacher, key.diagnostic) == (mechanism, teacher, diagnostic)
            and "all" in splits
        }

    def numbered(self, mechanism: str, teacher: str, diagnostic: str) -> dict[float, Estimate]:
        """Return the variants of the form NAME=NUMBER, by number."""
        found = self.variants(mechanism, teacher, diagnostic)
        return {
            float(name.partition("=")[2]): value for name, value in found.items() if "," not in name
        }


def _nothing(run: Run) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Diagnostic:
    """One mechanism.

    Attributes:
        collect: adds a shard's figures, if the shard has the tables for them.
        advise: given a teacher, what to do about each of its figures that calls for a sentence.
        writers: the tables of nodes that it needs.
        stages: the stages that it adds, if it samples.
        figures: figures of the run as a whole, which no shard adds to.
    """

    collect: Callable[[Run, str, Collector], None]
    advise: Callable[[str, Figures], Mapping[FigureKey, Advice]]
    writers: Callable[[Run], Sequence[TableWriter]] = _nothing
    stages: Callable[[Run], Sequence[Stage]] = _nothing
    figures: Callable[[Run], Sequence[Figure]] = _nothing


@dataclass(frozen=True, eq=False)
class Scored:
    """A direction that uses no continuations, against the ideal gradient, [N]."""

    cosine: Floats
    dot: Floats
    method_norm2: Floats


def against_ideal(nodes: NodeTable, view: NodeView, ascent_NS: Floats) -> Scored:
    """Compare a direction on a view's support with the ideal gradient; NaN rows count as zero."""
    at = view.rows
    prob_NC, value_NC, mask_NC = nodes.prob_NC[at], nodes.value_NC[at], view.mask_NC
    whole = WholeDirection.of(ascent_NS, view)
    sums = node_sums(prob_NC, value_NC, nodes.var_NC[at], whole.inside_NC, mask_NC)
    return Scored(
        cosine=whole.cosine(ideal_gradient(prob_NC, value_NC, mask_NC)),
        dot=_mass(nodes, view) * sums.dot_N,
        method_norm2=whole.norm2_N,
    )


def _mass(nodes: NodeTable, view: NodeView) -> Floats:
    """Return the student's probability of all candidates, [N]."""
    return np.asarray(np.where(view.mask_NC, nodes.prob_NC[view.rows], 0.0).sum(axis=1))


def key_columns(nodes: NodeTable, at: Ints) -> dict[str, Any]:
    """Return the columns by which some of a shard's nodes join with other tables."""
    return {
        **{
            name: [ids[n] for n in at]
            for name in ("question_id", "spine_id", "node_id")
            for ids in [nodes.ids(name)]
        },
        "position": nodes.column("position")[at],
        "correct": nodes.column("correct")[at],
    }


def ideal_columns(nodes: NodeTable, view: NodeView) -> dict[str, Any]:
    """Return what pooling needs besides the direction; g* is 0 outside the view's candidates."""
    at = view.rows
    return {
        "weight": np.asarray(1.0 / nodes.column("inclusion_prob")[at]),
        "ideal_norm2": _mass(nodes, view) ** 2
        * unbiased_norm2(nodes.prob_NC[at], nodes.value_NC[at], nodes.var_NC[at], view.mask_NC),
    }


def counted_rows(run: Run, shard: str, table: str) -> pd.DataFrame:
    """Read a table of nodes, without those at special tokens if the run leaves them out."""
    frame: pd.DataFrame = run.folder.read_table(table, shard).to_pandas()
    return frame[counts(run, shard, frame)]


def counts(run: Run, shard: str, frame: pd.DataFrame) -> Bools:
    """Return which rows are of nodes that count in the run's summary."""
    if not run.config.mask_special:
        return np.ones(len(frame), dtype=np.bool_)
    nodes = run.folder.read_table("nodes", shard).to_pandas()
    special = nodes.loc[nodes["special"].to_numpy(dtype=np.bool_), "node_id"].astype(str)
    return np.asarray(~frame["node_id"].astype(str).isin(special).to_numpy(dtype=np.bool_))


def spine_positions(
    run: Run, shard: str
) -> Iterator[tuple[str, pd.DataFrame, npt.NDArray[np.object_], dict[str, Bools]]]:
    """Yield the table `tokens` of each teacher that is read, with questions and splits of rows."""
    correct = run.folder.read_table("spines", shard).to_pandas()
    is_correct = dict(zip(correct["spine_id"].astype(str), correct["correct"], strict=True))
    length = dict(zip(correct["spine_id"].astype(str), correct["num_tokens"], strict=True))
    for teacher in run.read_teachers:
        frame = run.folder.read_table("tokens", teacher_file(shard, teacher.label)).to_pandas()
        spine = frame["spine_id"].astype(str)
        last = np.maximum(spine.map(length).to_numpy(dtype=np.float64) - 1, 1)
        splits = {
            **outcome_splits(spine.map(is_correct).to_numpy()),
            **position_splits(frame["position"].to_numpy() / last),
        }
        yield teacher.label, frame, questions_of(frame), splits
