"""What rehearsals of a scored run say of each training, and how far they are off."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gradalign
from gradalign.estimates import Arm
from gradalign.pipeline import score_config
from validity.lengths import AdamwSettings
from validity.pairs import Configuration, Pair
from validity.ranks import difference
from validity.training import TrainSettings

FIRST_ORDER = ("gain_one", "gain_batch", "weights", "pooled")
"""What the tool says of the first step; rehearsals are to be no worse."""


def rehearse(
    report: gradalign.Report, settings: TrainSettings, folder: Path, step: str = ""
) -> gradalign.Report:
    """Rehearse the very trainings of a scored run, in a copy of it; one that is there is used.

    The run itself stays as it is, so that the command that scored it takes it as done.

    Args:
        report: the scored run.
        settings: of the trainings.
        folder: of the copy.
        step: another step than that of the settings.
    """
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(report.path, part)
        part.rename(folder)
    there = gradalign.read_report(str(folder))
    if there.metadata["status"] != "done":  # a rehearsal of it was interrupted
        score_config(there.config.model_copy(update={"output_dir": str(folder)}))
    return gradalign.rehearse(
        str(folder),
        steps=settings.checkpoints,
        step=step or _step(settings),
        responses=settings.group,
        display="none",
    )


def _step(settings: TrainSettings) -> str:
    if isinstance(settings, AdamwSettings):
        return f"adamw:lr={settings.learning_rate!r}"
    return f"length={settings.step_norm!r}"


def rehearsed(report: gradalign.Report, pair: Pair) -> dict[Configuration, dict[str, Any]]:
    """Return what a run's rehearsals say of every training, after each checkpoint.

    Args:
        report: of `rehearse`.
        pair: what was trained.
    """
    curves = report.curves
    return {
        item: {
            "rehearsed_by_checkpoint": [point.gain.value for point in points],
            "rehearsed_low": [point.gain.low for point in points],
            "rehearsed_high": [point.gain.high for point in points],
            "rehearsed_trusted": [point.trusted for point in points],
        }
        for item in pair.configurations
        if (points := curves.get(Arm(item.teacher, item.method)))
    }


def accuracy_of(rows: Sequence[dict[str, Any]], steps: Sequence[int]) -> list[dict[str, Any]]:
    """Return how rehearsed gains agree with trained ones after every checkpoint.

    Args:
        rows: configurations with `gains_by_checkpoint` and the fields of `rehearsed`.
        steps: of the checkpoints.

    Returns:
        Per checkpoint: the slope of trained on rehearsed gains through 0, their root mean squared
        difference, the share of equal signs among trainings that surely gain or lose, how many are
        trusted, and the difference of Spearman's correlations to each first-order number. The last
        two errors are of trusted points alone.
    """
    found = []
    there = [row for row in rows if "rehearsed_by_checkpoint" in row]
    for at, number in enumerate(steps):
        gains = [[seed[at] for seed in row["gains_by_checkpoint"]] for row in there]
        said_K = np.array([row["rehearsed_by_checkpoint"][at] for row in there])
        trusted_K = np.array([row["rehearsed_trusted"][at] for row in there])
        gain_K = np.mean(gains, axis=1)
        error_K = (
            np.std(gains, axis=1, ddof=1) / np.sqrt(len(gains[0]))
            if len(gains[0]) > 1
            else np.zeros(len(gains))
        )
        sure_K = np.abs(gain_K) > 2 * error_K
        inside = said_K[trusted_K], gain_K[trusted_K]
        found.append(
            {
                "steps": number,
                "slope": float(said_K @ gain_K / (said_K @ said_K)),
                "error": float(np.sqrt(np.mean((said_K - gain_K) ** 2))),
                "signs": float(np.mean(np.sign(said_K) == np.sign(gain_K), where=sure_K)),
                "trusted": int(trusted_K.sum()),
                "slope_trusted": float(inside[0] @ inside[1] / (inside[0] @ inside[0])),
                "error_trusted": float(np.sqrt(np.mean((inside[0] - inside[1]) ** 2))),
                "minus": {
                    name: difference(
                        said_K, [row.get(name, np.nan) for row in there], gains
                    ).to_dict("difference")
                    for name in FIRST_ORDER
                },
            }
        )
    return found
