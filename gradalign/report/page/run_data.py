"""What the page of a run shows, as plain JSON values.

Numbers are rounded to what can be seen; text has its control and direction marks made visible.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradalign.alignment import pooled_of_sums
from gradalign.alignment.value_interval import branch_interval, value_interval
from gradalign.errors import RunError, UsageError
from gradalign.estimates import Arm
from gradalign.report.arms import COLOURS, LONGEST_IN_FIGURE, best_arm, marked, teacher_colours
from gradalign.report.format import visible
from gradalign.report.node_scores import arms_in, directions, read_scores
from gradalign.report.terminal.tables import short_names
from gradalign.report.verdict import role_of
from gradalign.store.splits import ENTROPY_NAMES, QUARTERS

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.report.report import Report

BINS = 20
SPLITS = (
    "all",
    "correct",
    "incorrect",
    *(f"position:{name}" for name in QUARTERS),
    *(f"entropy:{name}" for name in ENTROPY_NAMES),
)
_NUMBERS = (
    "pooled", "pooled_low", "pooled_high", "mean_cosine", "mean_low", "mean_high",
    "positive_share", "coverage", "num_nodes", "num_flat",
    "weights_gain_one", "weights_gain_one_low", "weights_gain_one_high",
)  # fmt: skip
_ALIGNMENTS = tuple(name for name in _NUMBERS if name.startswith(("pooled", "mean", "weights")))


def page_data(
    report: Report, max_spines: int, measured: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Collect everything but the verdict.

    Args:
        report: a finished run.
        max_spines: at most this many responses, whole questions, spread over a few shards.
        measured: gains of real trainings, from `read_measured`.
    """
    summary = report.summary
    arms = arms_in(summary)
    chosen = choose_questions(report, max_spines)
    return {
        "arms": [[visible(arm.teacher), visible(arm.method)] for arm in arms],
        "roles": [role_of(arm) for arm in arms],
        "teachers": _teachers([arm.teacher for arm in arms]),
        "palette": COLOURS,
        "best": _best(summary, arms),
        "summary": _summary(summary, arms, chosen),
        "histograms": _histograms(report, arms),
        "curves": _curves(report, arms),
        "measured": _measured(measured, arms),
        "mixtures": mixtures(report),
        "questions": _questions(report, chosen),
        "spines": _spines(report, arms, chosen, max_spines),
        "num_questions": len(report.question_ids),
    }


def _teachers(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return per teacher its short name, what is put behind it, and its colour."""
    short = short_names(map(visible, names), LONGEST_IN_FIGURE)
    return {
        visible(name): {
            "short": short.get(visible(name), visible(name)),
            "mark": marked(name),
            "colour": colour,
        }
        for name, colour in teacher_colours(names).items()
    }


def _best(summary: pd.DataFrame, arms: Sequence[Arm]) -> int | None:
    """Return the arm that colours the tokens at first; None if none has an alignment."""
    try:
        return arms.index(best_arm(summary))
    except UsageError:
        return None


def choose_questions(report: Report, max_spines: int) -> list[str]:
    """Choose whole questions, evenly spaced, from as few shards as hold enough of them.

    Directions are computed shard by shard, so that a page of a large run costs a few shards.
    """
    every = report.question_ids
    totals = report.metadata.get("totals", {})
    per_question = max(totals.get("spines", len(every)) / max(len(every), 1), 1.0)
    wanted = min(max(int(max_spines / per_question), 1), len(every))
    shards = list(report.shards(every).items())
    enough = math.ceil(wanted / max(len(shards[0][1]), 1)) if shards else 0
    if enough < len(shards):
        at = np.unique(np.linspace(0, len(shards) - 1, enough + 1).round().astype(int))
        every = [question for i in at for question in shards[i][1]]
    at = np.unique(np.linspace(0, len(every) - 1, min(wanted, len(every))).round().astype(int))
    return [every[i] for i in at]


def _summary(
    summary: pd.DataFrame, arms: Sequence[Arm], chosen: Sequence[str]
) -> dict[str, list[Any]]:
    """Return per split a list with one entry per arm: the numbers, or null."""
    index = {arm: i for i, arm in enumerate(arms)}
    names = {*SPLITS, *(f"question:{question}" for question in chosen)}
    out: dict[str, list[Any]] = {}
    for row in summary[summary["split"].isin(names)].to_dict("records"):
        split = str(row["split"])
        kind, separator, rest = split.partition(":")
        shown = f"{kind}:{visible(rest)}" if separator else kind
        entry = out.setdefault(shown, [None] * len(arms))
        entry[index[Arm(row["teacher"], row["method"])]] = [
            # What is shown with 3 digits is rounded to them once, here.
            rounded(row[name], 3 if name in _ALIGNMENTS else 6)
            for name in _NUMBERS
        ]
    return out


def _curves(report: Report, arms: Sequence[Arm]) -> list[list[list[Any]]]:
    """Return per arm its rehearsed points: steps, gain, low, high, and why it is not trusted."""
    curves = report.curves
    return [
        [
            [point.steps, *(rounded(x, 4) for x in point.gain.span), visible(point.why)]
            for point in curves.get(arm, [])
        ]
        for arm in arms
    ]


def _measured(table: pd.DataFrame | None, arms: Sequence[Arm]) -> list[list[Any]]:
    """Return real trainings: the arm's index, steps, gain."""
    if table is None:
        return []
    index = {tuple(arm): number for number, arm in enumerate(arms)}
    return [
        [index[row["teacher"], row["method"]], row["steps"], rounded(row["gain"], 4)]
        for row in table.to_dict("records")
    ]


def _histograms(report: Report, arms: Sequence[Arm]) -> list[list[list[int]]]:
    """Count cosines per arm in equal bins over [-1, 1], correct and incorrect spines apart."""
    table = report.table("alignment", ["teacher", "method", "correct", "cosine"])
    table = table[table["cosine"].notna()]
    groups = dict(list(table.groupby(["teacher", "method", "correct"], observed=True)["cosine"]))
    edges = np.linspace(-1.0, 1.0, BINS + 1)
    empty = np.zeros(0)
    return [
        [
            np.histogram(groups.get((arm.teacher, arm.method, correct), empty), edges)[0].tolist()
            for correct in (True, False)
        ]
        for arm in arms
    ]


def mixtures(report: Report) -> list[dict[str, Any]]:
    """Return the curve of every mixture m_1 + c m_2: alignment by the second one's share.

    A point is c / (1 + c), alignment, and the ends of its interval.
    """
    rows = report.table("diagnostics_summary")
    rows = rows[(rows["mechanism"].astype(str) == "gram") & (rows["split"].astype(str) == "all")]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        label, _, text = str(row["variant"]).rpartition(" at ")
        key = (str(row["teacher"] or ""), label or str(row["variant"]))
        entry = found.setdefault(
            key,
            {"teacher": visible(key[0]), "label": visible(key[1]), "points": [], "best": {}},
        )
        numbers = [rounded(row[name], 3) for name in ("value", "low", "high")]
        if row["diagnostic"] == "alignment":
            c = float(text)
            entry["points"].append([1.0 if math.isinf(c) else rounded(c / (1.0 + c)), *numbers])
        elif row["diagnostic"] in ("best_share", "best_alignment"):
            entry["best"][str(row["diagnostic"])] = numbers
    return [entry for entry in found.values() if entry["points"]]


def diagnostics(report: Report) -> list[dict[str, Any]]:
    """Return the diagnostics of all questions with their advice, or the plain averages.

    Alignment of mixtures has a curve of its own.
    """
    summary = report.table("diagnostics_summary")
    rows = summary[summary["split"].astype(str) == "all"]
    curve = (rows["mechanism"].astype(str) == "gram") & (
        rows["diagnostic"].astype(str).isin(("alignment", "weights_gain"))
    )
    rows = rows[~curve]
    if len(rows):
        return [
            {
                **{
                    name: visible(str(row[name] or ""))
                    for name in ("mechanism", "teacher", "diagnostic", "variant", "advice")
                },
                **{name: rounded(row[name]) for name in ("value", "low", "high")},
            }
            for row in rows.to_dict("records")
        ]
    measured = ("overlap_ratio", "overlap_mass_student", "entropy_gap", "reverse_kl", "forward_kl")
    table = report.table("diagnostics", ["teacher", *measured])
    return [
        {
            "mechanism": "overlap", "teacher": visible(str(teacher)), "diagnostic": name,
            "variant": "", "value": rounded(float(part[name].mean())), "low": None, "high": None,
            "advice": "",
        }
        for teacher, part in table.groupby("teacher", sort=False, observed=True)
        for name in measured
    ]  # fmt: skip


def _questions(report: Report, chosen: Sequence[str]) -> list[dict[str, str]]:
    out = []
    for question in chosen:
        table = report.table("questions", ["question_id", "prompt", "answer", "record"], question)
        for row in table.to_dict("records"):
            answer = row["answer"]
            whole = visible(str(row["prompt"]), newlines=True)
            out.append(
                {
                    "id": visible(question),
                    "asked": _asked(row["record"]) or whole,
                    "prompt": whole,
                    "answer": visible(answer) if isinstance(answer, str) else "",
                }
            )
    return out


def _asked(record: Any) -> str:
    """Return what a question asks without its template: the last message, or the whole text."""
    try:
        prompt = json.loads(record)["prompt"]
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    except (ValueError, TypeError, LookupError):  # a record that we did not write
        return ""
    return visible(str(text), newlines=True)


def _spines(
    report: Report, arms: Sequence[Arm], chosen: Sequence[str], max_spines: int
) -> list[dict[str, Any]]:
    spines: list[dict[str, Any]] = []
    lengths = _lengths(report)
    order = {question: i for i, question in enumerate(chosen)}
    for shard, questions in report.shards(chosen).items():
        pointed = _pointed(report, shard)
        for question in questions:
            spines += _question_spines(report, arms, order[question], question, pointed, lengths)
    spines.sort(key=lambda spine: spine["q"])
    return spines[:max_spines]


def _lengths(report: Report) -> dict[Arm, float]:
    """Return what the sum over nodes of weight * dot is divided by for an arm's pooled alignment.

    NaN where there is none. A node's own weight * dot by it is what the node adds to the alignment.
    """
    scores = read_scores(report)
    return {
        arm: float(sums[0] / pooled) if (pooled := float(pooled_of_sums(sums))) else math.nan
        for arm in scores.arms
        for sums in [scores.sums(arm).sum(axis=0)]
    }


def _pointed(report: Report, shard: str) -> dict[tuple[str, str, str], dict[int, float]]:
    """Return (teacher, method, node) to the whole direction, of length 1, at each candidate.

    A shard with a torn file has none, and the rest of it is shown.
    """
    out: dict[tuple[str, str, str], dict[int, float]] = {}
    try:
        every = list(directions(report, shard))
    except RunError as error:
        warnings.warn(f"{error.message} Its questions are shown without directions.", stacklevel=2)
        return out
    for found in every:
        length_N1 = found.length_N[:, None]
        unit_NC = found.ascent_NC / np.where(length_N1 > 0, length_N1, 1.0)
        for node, tokens, values in zip(
            found.node_ids, found.token_NC.tolist(), unit_NC.tolist(), strict=True
        ):
            key = (found.arm.teacher, found.arm.method, node)
            out[key] = dict(zip(tokens, values, strict=True))
    return out


def _question_spines(
    report: Report,
    arms: Sequence[Arm],
    number: int,
    question: str,
    pointed: dict[tuple[str, str, str], dict[int, float]],
    lengths: Mapping[Arm, float],
) -> list[dict[str, Any]]:
    said = report.table("tokens", ["spine_id", "position", "token"], question)
    said = said.drop_duplicates(["spine_id", "position"]).sort_values(["spine_id", "position"])
    texts = {str(k): list(v) for k, v in said.groupby("spine_id", observed=True)["token"]}
    nodes = report.table("nodes", question_id=question).to_dict("records")
    branches = _grouped(report.table("branches", question_id=question))
    aligned = _grouped(report.table("alignment", question_id=question))
    teachers: dict[tuple[str, int], dict[str, float]] = {}
    for row in report.table("branch_teachers", question_id=question).to_dict("records"):
        key = (str(row["node_id"]), int(row["token_id"]))
        teachers.setdefault(key, {})[str(row["teacher"])] = row["teacher_prob"]
    resolved = report.metadata.get("resolved", {})
    out = []
    for spine in report.table("spines", question_id=question).to_dict("records"):
        name = str(spine["spine_id"])
        tokens = texts.get(name) or [f"[{token}]" for token in spine["token_ids"]]
        out.append(
            {
                "q": number,
                "id": visible(name),
                "correct": None if spine["correct"] is None else bool(spine["correct"]),
                "reward": rounded(spine["reward"]),
                "finish": str(spine["finish_reason"]),
                "tokens": [visible(token) for token in tokens],
                "nodes": [
                    _node(node, arms, resolved, branches, aligned, teachers, pointed, lengths)
                    for node in nodes
                    if str(node["spine_id"]) == name
                ],
            }
        )
    return out


def _node(
    node: dict[Any, Any],
    arms: Sequence[Arm],
    resolved: Mapping[str, Any],
    branches: dict[str, list[dict[Any, Any]]],
    aligned: dict[str, list[dict[Any, Any]]],
    teachers: dict[tuple[str, int], dict[str, float]],
    pointed: dict[tuple[str, str, str], dict[int, float]],
    lengths: Mapping[Arm, float],
) -> dict[str, Any]:
    node_id = str(node["node_id"])
    rows = branches.get(node_id, [])
    by_arm = {(row["teacher"], row["method"]): row for row in aligned.get(node_id, [])}
    ideal = np.array([row["ideal"] for row in rows], dtype=np.float64)
    length = float(np.sqrt(np.nansum(ideal**2)))
    token_ids = [int(row["token_id"]) for row in rows]
    own = [by_arm.get((arm.teacher, arm.method)) for arm in arms]
    labels = list(dict.fromkeys(arm.teacher for arm in arms if arm.teacher))
    return {
        "t": int(node["position"]),
        "value": rounded(node["value"]),
        "ends": [
            rounded(end, 2)
            for end in value_interval(
                node["value"], node["value_se"] ** 2, node["num_continuations"]
            )
        ],
        "entropy": rounded(node["student_entropy"]),
        "coverage": rounded(node["coverage"]),
        "rollouts": int(node["num_continuations"]),
        "flat": bool(node["flat"]),
        "cos": [None if row is None else rounded(row["cosine"], 2) for row in own],
        "adds": [
            None
            if row is None
            else rounded(row["weight"] * row["dot"] / lengths.get(arm, math.nan), 5)
            for arm, row in zip(arms, own, strict=True)
        ],
        "why": [None if row is None else visible(str(row["reason"] or "")) for row in own],
        "candidates": [
            [
                visible(str(row["token"])),
                rounded(row["student_prob"]),
                rounded(row["value"]),
                *(rounded(end, 2) for end in branch_interval(row, resolved)),
                int(row["num_continuations"]),
                rounded(row["ideal"] / length if length > 0 else row["ideal"], 2),
                visible(str(row["why"])),
            ]
            for row in rows
        ],
        "q": [
            [rounded(teachers.get((node_id, token), {}).get(label)) for token in token_ids]
            for label in labels
        ],
        "m": [
            [
                rounded(pointed.get((arm.teacher, arm.method, node_id), {}).get(token), 2)
                for token in token_ids
            ]
            for arm in arms
        ],
    }


def _grouped(frame: pd.DataFrame) -> dict[str, list[dict[Any, Any]]]:
    """Return a table's rows by node."""
    out: dict[str, list[dict[Any, Any]]] = {}
    for row in frame.to_dict("records"):
        out.setdefault(str(row["node_id"]), []).append(row)
    return out


def rounded(value: Any, digits: int = 4) -> float | int | None:
    """Round for display; None where there is no number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value)
    number = float(value)
    return round(number, digits) if math.isfinite(number) else None
