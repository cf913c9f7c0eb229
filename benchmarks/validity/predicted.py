"""What is said of every configuration before it is trained: the tool's figures, and its rivals'."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import gradalign
from gradalign.estimates import Arm
from gradalign.questions import Prompt
from validity.pairs import Configuration, Pair
from validity.rehearsed import rehearse
from validity.scoring import SCORE_DRAW
from validity.training import TrainSettings

REHEARSED = "rehearsed"
"""The gain of a training that is rehearsed: of the way and the number of steps that it is held
against. It is what `recommend` goes by first."""

OURS = (
    REHEARSED,
    "gain_one",
    "gain_batch",
    "weights",
    "adamw_one",
    "adamw",
    "pooled",
    "mean",
    "balanced",
)
"""Figures that cost targeted rollouts; gains of the weights are per step of length 1."""

RIVALS = (
    "accuracy",
    "accuracy_gap",
    "teacher_advantage",
    "grace",
    "reverse_kl",
    "forward_kl",
    "early_kl",
    "overlap",
    "entropy_gap",
    "loss_decrease",
)
"""What else is said to predict; only `teacher_advantage` costs targeted rollouts."""

SIGNED = (*OURS, "accuracy_gap", "teacher_advantage")
"""Figures whose sign says whether a training helps or harms."""

_SUMMARY: Mapping[str, str] = MappingProxyType(
    {
        "gain_one": "weights_gain_one",
        "gain_batch": "weights_gain",
        "weights": "weights",
        "adamw_one": "weights_adamw_one",
        "adamw": "weights_adamw",
        "pooled": "pooled",
        "mean": "mean_cosine",
        "balanced": "balanced",
        "teacher_advantage": "teacher_advantage",
    }
)
_RIVALS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy",
        "accuracy_gap": "accuracy_gap",
        "grace": "grace",
        "reverse_kl": "reverse_kl",
        "forward_kl": "forward_kl",
        "overlap": "overlap_ratio",
        "entropy_gap": "entropy_difference",
    }
)


@dataclass(frozen=True)
class Budget:
    """What a scored run may cost.

    Attributes:
        questions: none of which is trained on or evaluated; teachers answer them too.
        responses: to each, every position of which is a node.
        continuations: targeted rollouts per candidate, on average.
        space: of the weights, as the training moves them.
        batch: questions of a step of the training.
    """

    questions: int = 128
    responses: int = 2
    continuations: int = 8
    space: str = "all"
    batch: int = 32


def score_all(pair: Pair, budget: Budget, folder: Path) -> gradalign.Report:
    """Score all teachers and methods of a pair; a run in `folder` is gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = folder / "questions.jsonl"
    rows = [
        {
            "id": question.id,
            **_asked(question.prompt),
            "answer": question.answer,
            "solution": question.solution,
            "contexts": {name: _plain(prompt) for name, prompt in question.contexts.items()},
        }
        for question in pair.questions(budget.questions, SCORE_DRAW, False)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return gradalign.score(
        student=pair.student,
        teachers=pair.teachers,
        methods=pair.methods,
        task=str(questions),
        verifier=pair.verifier,
        output_dir=str(folder / "run"),
        num_rollouts=budget.responses,
        continuations=budget.continuations,
        node_sampler="all",
        max_tokens=pair.max_tokens,
        engine="transformers",
        device="cpu",
        dtype=pair.dtype,
        diagnose=["overlap", "rivals"],
        control=False,  # the pair's teachers are all that is compared
        alignment="weights",
        weights_space=budget.space,
        weights_batch=budget.batch,
        weights_adamw="first",
        teacher_accuracy=budget.questions,
        seed=1,
    )


def _plain(prompt: Prompt) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def _asked(prompt: Prompt) -> dict[str, Any]:
    return {"prompt" if isinstance(prompt, str) else "messages": _plain(prompt)}


def predictors(report: gradalign.Report, pair: Pair) -> dict[Configuration, dict[str, float]]:
    """Everything that may predict the gain, per configuration, NaN where it has no such number.

    An arm that trains by the sampled token has the figures of the one in expectation.
    `early_kl` is KL(P||Q) with weights that fall to 0 along a response. `loss_decrease` is what a
    step of length 1 along an arm's own update takes off its loss, to first order: its length.
    """
    summary = report.summary.query("split == 'all'").set_index(["teacher", "method"])
    rivals = _of_teachers(report)
    config = report.metadata["config"]
    found: dict[Configuration, dict[str, float]] = {}
    for item in pair.configurations:
        row: dict[str, float] = dict.fromkeys((*OURS[1:], *RIVALS), float("nan"))
        row |= rivals.get(item.teacher, {})
        if (item.teacher, item.method) in summary.index:
            told = summary.loc[(item.teacher, item.method)]
            row |= {name: float(told[column]) for name, column in _SUMMARY.items()}
            batch, responses = int(config["weights_batch"]), int(config["num_rollouts"])
            square = (
                told["weights_shared"]
                + told["weights_between"] / batch
                + told["weights_within"] / (batch * responses)
            )
            row["loss_decrease"] = float(np.sqrt(square)) if square >= 0 else float("nan")
        found[item] = row
    return found


def rehearsals(
    report: gradalign.Report, pair: Pair, ways: Mapping[str, TrainSettings]
) -> dict[Configuration, dict[str, dict[str, float]]]:
    """Rehearse every configuration in every way, as it is trained.

    Args:
        report: the scored run; copies of it are rehearsed beside it.
        pair: what is trained.
        ways: settings of the trainings, by name.

    Returns:
        Rehearsed gains by configuration, way and number of steps; NaN where trust has ended.
    """
    found: dict[Configuration, dict[str, dict[str, float]]] = {
        item: {} for item in pair.configurations
    }
    folder = Path(report.path)
    for way, settings in ways.items():
        own = rehearse(report, settings, folder.with_name(f"rehearsed-{way}"))
        for item in pair.configurations:
            points = own.curves.get(Arm(item.teacher, item.method), [])
            found[item][way] = {
                str(point.steps): point.gain.value if point.trusted else float("nan")
                for point in points
            }
    return found


def _of_teachers(report: gradalign.Report) -> dict[str, dict[str, float]]:
    """What there is per teacher, whatever the method."""
    frame = report.diagnostics_summary.query("mechanism == 'rivals' and split == 'all'")
    frame = frame.astype({"teacher": str, "diagnostic": str})
    values = frame.set_index(["teacher", "diagnostic"])["value"]
    nodes = report.nodes[["node_id", "relative_position"]].astype({"node_id": str})
    early = report.diagnostics.astype({"node_id": str, "teacher": str}).merge(nodes, on="node_id")
    early = early.assign(early=(1.0 - early["relative_position"]) * early["reverse_kl"])
    by_teacher = early[np.isfinite(early["early"])].groupby("teacher")["early"].mean()
    return {
        teacher: {
            **{
                name: float(values.get((teacher, diagnostic), float("nan")))
                for name, diagnostic in _RIVALS.items()
            },
            "early_kl": float(by_teacher.get(teacher, float("nan"))),
        }
        for teacher in frame["teacher"].unique()
        if teacher
    }
