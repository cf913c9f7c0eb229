"""Two runs side by side: paired where their nodes or questions coincide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr, stdtrit
from scipy.stats import norm

from gradalign.alignment import compare, pooled_of_sums
from gradalign.alignment.findings import pooled_finding
from gradalign.alignment.scores import POOLING
from gradalign.errors import RunError
from gradalign.estimates import Arm, Difference
from gradalign.report.node_scores import NodeScores, read_scores
from gradalign.report.significance import check_level, holm, resamples_for
from gradalign.report.verdict import to_json

if TYPE_CHECKING:
    from gradalign.report.report import Report

Bools = npt.NDArray[np.bool_]
Pairing = Literal["nodes", "questions", "none"]


@dataclass(frozen=True)
class ArmDifference:
    """A number of one arm in two runs, second minus first.

    Attributes:
        teacher, method: the arm; both runs have it.
        number: its column of the summary: `pooled`, or a gain per step of the weights.
        pairing: `nodes` (the same positions of the same responses), `questions` (the same
            questions, other responses), or `none` (independent runs).
        first, second: the number in each; pooled alignment on the shared nodes or questions where
            paired.
        difference: second minus first; its p-value is corrected over arms.
        num_first, num_second: nodes of each run behind it.
    """

    teacher: str
    method: str
    number: str
    pairing: Pairing
    first: float
    second: float
    difference: Difference
    num_first: int
    num_second: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, None where a number is not known."""
        plain: dict[str, Any] = to_json(
            {
                "teacher": self.teacher,
                "method": self.method,
                "number": self.number,
                "pairing": self.pairing,
                "first": self.first,
                "second": self.second,
                **self.difference.columns(),
                "num_first": self.num_first,
                "num_second": self.num_second,
            }
        )
        return plain


def compare_runs(first: Report, second: Report, *, level: float = 0.95) -> list[ArmDifference]:
    """Compare every arm that both runs have.

    Nodes coincide where both runs chose the same position of the same response (same question,
    same token ids); if at least half of the smaller run's nodes do, only these are compared.
    Where both were aligned in one space of the weights, gains per step follow: see `_gains`.

    Raises:
        RunError: a run is not finished, or they share no teacher and method.
        UsageError: `level` is not in [0.5, 1).
    """
    check_level(level)
    for report in (first, second):
        report.check_finished()
    scores = (read_scores(first), read_scores(second))
    shared = [arm for arm in scores[0].arms if arm in scores[1].arms]
    if not shared:
        raise RunError(
            f"{first.path} and {second.path} share no teacher and method.",
            "Use gradalign rescore to add one to a run without sampling again.",
        )
    seed = int(first.metadata.get("config", {}).get("seed", 0))
    nodes = _same_nodes(first, second, scores)
    families = [[_one(arm, scores, nodes, seed, level) for arm in shared]]
    if in_one_space(first, second):
        families += [_gains(first, second, shared, number, level) for number in GAINS]
    return [
        replace(row, difference=replace(row.difference, adjusted_p=p))
        for rows in families
        for row, p in zip(rows, holm([row.difference.p_value for row in rows]), strict=True)
    ]


GAINS = {"weights_gain_one": "weights_one_influence", "weights_gain": "weights_influence"}
"""Gains per step of the summary, and what each question adds to them in `question_sums`."""


def in_one_space(first: Report, second: Report) -> bool:
    """Whether two runs have steps of the same kind: one space of the weights, and one batch."""
    configs = [report.metadata.get("config", {}) for report in (first, second)]
    if not all("weights" in config.get("alignment", ()) for config in configs):
        return False
    names = ("weights_space", "weights_batch", "num_rollouts")
    return all(configs[0].get(name) == configs[1].get(name) for name in names)


def _gains(
    first: Report, second: Report, arms: list[Arm], number: str, level: float
) -> list[ArmDifference]:
    """Compare a gain per step in two runs, arm by arm.

    Every question moves a run's gain by its influence, and the difference by that of the second
    run less that of the first: what a question does to both alike cancels. A question of one run
    alone counts by itself.
    """
    return [_gain(first, second, arm, number, level) for arm in arms]


def _gain(first: Report, second: Report, arm: Arm, number: str, level: float) -> ArmDifference:
    values, influences = [], []
    for report in (first, second):
        rows = _of_arm(report.summary, arm)
        values.append(float(rows.loc[rows["split"] == "all", number].iloc[0]))
        table = report.table("question_sums", ["question_id", "teacher", "method", GAINS[number]])
        own = _of_arm(table, arm)
        influences.append(
            dict(zip(own["question_id"].astype(str), own[GAINS[number]], strict=True))
        )
    ids = sorted({*influences[0], *influences[1]})
    shared = influences[0].keys() & influences[1].keys()
    psi_Q = np.array([influences[1].get(q, 0.0) - influences[0].get(q, 0.0) for q in ids])
    counts = [len(own) for own in influences]
    value, least = values[1] - values[0], min(counts)
    difference = Difference(value)
    if least > 2 and np.isfinite([value, *psi_Q]).all():
        se = math.sqrt(least / (least - 1) * float(psi_Q @ psi_Q))
        reach = float(stdtrit(least - 1, (1.0 + level) / 2)) * se
        p_value = 2.0 * float(stdtr(least - 1, -abs(value) / se)) if se > 0 else math.nan
        difference = Difference(value, value - reach, value + reach, se, p_value)
    return ArmDifference(
        teacher=arm.teacher,
        method=arm.method,
        number=number,
        pairing="questions" if len(shared) >= 2 else "none",
        first=values[0],
        second=values[1],
        difference=difference,
        num_first=_num_nodes(first, arm),
        num_second=_num_nodes(second, arm),
    )


def _of_arm(table: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    return table[(table["teacher"] == arm.teacher) & (table["method"] == arm.method)]


def _num_nodes(report: Report, arm: Arm) -> int:
    rows = _of_arm(report.summary, arm)
    return int(rows.loc[rows["split"] == "all", "num_nodes"].iloc[0])


def _same_nodes(
    first: Report, second: Report, scores: tuple[NodeScores, NodeScores]
) -> tuple[Bools, Bools]:
    """Mark the nodes that both runs have, on responses with the same tokens."""
    tokens = [
        {
            str(spine): (str(question), tuple(ids))
            for question, spine, ids in zip(
                table["question_id"], table["spine_id"], table["token_ids"], strict=True
            )
        }
        for table in (
            report.table("spines", ["question_id", "spine_id", "token_ids"])
            for report in (first, second)
        )
    ]
    same = {spine for spine, value in tokens[0].items() if tokens[1].get(spine) == value}
    both = set(scores[0].node_id_N) & set(scores[1].node_id_N)
    both = {node for node in both if str(node).rpartition("/")[0] in same}
    marks = [np.array([node in both for node in part.node_id_N], dtype=bool) for part in scores]
    return marks[0], marks[1]


def _one(
    arm: Arm,
    scores: tuple[NodeScores, NodeScores],
    nodes: tuple[Bools, Bools],
    seed: int,
    level: float,
) -> ArmDifference:
    inside = [part.there(arm) for part in scores]
    both = [mark & there for mark, there in zip(nodes, inside, strict=True)]
    ids = [part.node_id_N[keep] for part, keep in zip(scores, both, strict=True)]
    common = set(ids[0]) & set(ids[1])
    questions = set(scores[0].questions) & set(scores[1].questions)
    pairing: Pairing = "none"
    if len(common) * 2 >= min(int(mark.sum()) for mark in inside) and common:
        pairing = "nodes"
        inside = [
            np.array([node in common for node in part.node_id_N], dtype=bool) for part in scores
        ]
    elif len(questions) >= 2:
        pairing = "questions"
        inside = [
            mark & np.isin(np.array(part.questions, dtype=object)[part.question_N], list(questions))
            for mark, part in zip(inside, scores, strict=True)
        ]
    by_question = [
        dict(zip(part.questions, part.sums(arm, mark), strict=True))
        for part, mark in zip(scores, inside, strict=True)
    ]
    counted = [
        {part.questions[q] for q in np.unique(part.question_N[mark])}
        for part, mark in zip(scores, inside, strict=True)
    ]
    if pairing == "none":
        sums = [
            _stacked([by[q] for q in sorted(has)])
            for by, has in zip(by_question, counted, strict=True)
        ]
        difference = _unpaired(sums[0], sums[1], level)
    else:
        order = sorted(counted[0] & counted[1])
        sums = [_stacked([by[q] for q in order]) for by in by_question]
        difference = compare(
            sums[1], sums[0], pooled_of_sums,
            seed=seed, num_resamples=resamples_for(len(order)), level=level,
        )  # fmt: skip
    values = [pooled_finding(part, level=level).value for part in sums]
    return ArmDifference(
        teacher=arm.teacher,
        method=arm.method,
        number="pooled",
        pairing=pairing,
        first=values[0],
        second=values[1],
        difference=difference,
        num_first=int(inside[0].sum()),
        num_second=int(inside[1].sum()),
    )


def _stacked(rows: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Stack sums of questions, of which there may be none, [Q, POOLING]."""
    return np.stack(rows) if rows else np.zeros((0, POOLING))


def _unpaired(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], level: float
) -> Difference:
    """Difference of independent estimates: their standard errors add in squares."""
    one, other = (pooled_finding(sums, level=level) for sums in (first, second))
    difference = other.value - one.value
    se = math.hypot(one.se, other.se)
    ends = (one.low, one.high, other.low, other.high)
    if not (math.isfinite(se) and se > 0 and all(map(math.isfinite, ends))):
        return Difference(difference)
    reach = float(norm.ppf((1.0 + level) / 2)) * se
    p_value = 2.0 * float(norm.sf(abs(difference) / se))
    return Difference(difference, difference - reach, difference + reach, se, p_value)
