"""Trainings that are kept one by one, with what became of every held-out question.

A training is known by its pair, configuration, settings and seed; its file is written when it has
ended, so that an interrupted series goes on with the next one. The student before training is
measured once per seed, with the random numbers that are used after it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import write_json

from validity.gains import trainer_of
from validity.pairs import Configuration, Pair, load_model
from validity.training import EVAL_DRAW, EVAL_SEED, TrainSettings, rollout, train
from validity.trl_training import train_with_trl

BLOCKS = 32
"""Held-out questions are kept in so many blocks, which is what intervals resample."""


@dataclass(frozen=True)
class Series:
    """All trainings of a pair in one way.

    Attributes:
        pair: what is trained.
        way: the name of the settings.
        settings: how.
        folder: where finished trainings lie.
    """

    pair: Pair
    way: str
    settings: TrainSettings
    folder: Path

    def file(self, configuration: Configuration, seed: int) -> Path:
        """Where a training is kept."""
        return self.folder / f"{self.way}-{seed}-{_slug(configuration)}.json"

    def missing(self, seeds: Sequence[int]) -> list[tuple[Configuration, int]]:
        """Trainings that are not there, seed by seed."""
        return [
            (item, seed)
            for seed in seeds
            for item in self.pair.configurations
            if not self.file(item, seed).is_file()
        ]

    def run(self, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Train, measure and keep one configuration with one seed."""
        began = time.process_time()
        before = self.before(seed)
        found: dict[str, str] = {}

        def watch(step: int, model: torch.nn.Module) -> None:
            if step in self.settings.checkpoints:
                found[str(step)] = self._measured(model, seed)

        trainer = trainer_of(configuration, use_trl=True)
        loop = train_with_trl if trainer == "trl" else train
        loop(self.pair, configuration, self.settings, seed, watch)
        record = {
            "pair": self.pair.name,
            "way": self.way,
            "settings": asdict(self.settings),
            "configuration": asdict(configuration),
            "label": configuration.label,
            "seed": seed,
            "trainer": trainer,
            "before": before,
            "after": found,
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        write_json(self.file(configuration, seed), record)
        return record

    def before(self, seed: int) -> str:
        """Right responses to each held-out question by the untrained student."""
        file = self.folder / f"{self.way}-{seed}-before.json"
        if not file.is_file():
            right = self._measured(load_model(self.pair.student, self.pair.dtype), seed)
            write_json(file, {"settings": asdict(self.settings), "right": right})
        return str(json.loads(file.read_text())["right"])

    def _measured(self, model: torch.nn.Module, seed: int) -> str:
        settings = self.settings
        held_out = self.pair.questions(settings.eval_prompts, EVAL_DRAW, True)
        rolled = rollout(self.pair, model, held_out, settings.eval_responses, EVAL_SEED + seed)
        right_Q = rolled.reward_B.reshape(len(held_out), -1).sum(axis=1)
        return "".join(str(int(right)) for right in right_Q)


def train_missing(
    series: Sequence[Series], seeds: Sequence[int], say: Callable[[str], None]
) -> None:
    """Run every training that is not there yet, one after the other, first seeds first."""
    todo = [(one, item, seed) for at in seeds for one in series for item, seed in one.missing([at])]
    began = time.perf_counter()
    for done, (one, item, seed) in enumerate(todo, start=1):
        record = one.run(item, seed)
        gains = " ".join(f"{gain:+.3f}" for gain in gains_of(record).values())
        say(
            f"{done}/{len(todo)} {time.perf_counter() - began:.0f} s, {record['cpu_seconds']} of "
            f"CPU: {one.pair.name} {one.way} seed {seed} {item.label}: {gains}"
        )


def gains_of(record: dict[str, Any]) -> dict[str, float]:
    """Gain in success per checkpoint of a kept training."""
    responses = record["settings"]["eval_responses"]
    before = _counts(record["before"]).mean()
    return {
        step: float((_counts(right).mean() - before) / responses)
        for step, right in record["after"].items()
    }


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Finished trainings in a folder, in the order of their names."""
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        if "configuration" in record:
            yield record


def in_blocks(right: str, blocks: int = BLOCKS) -> list[int]:
    """Right responses per block of successive questions."""
    return [int(part.sum()) for part in np.array_split(_counts(right), blocks)]


def _counts(right: str) -> npt.NDArray[np.int64]:
    return np.asarray([int(digit) for digit in right])


def _slug(configuration: Configuration) -> str:
    """A file's name for a configuration; the hash tells labels apart that read alike."""
    name = f"{configuration.label}-{configuration.estimator}"
    whole = json.dumps([configuration.teacher.rsplit("/", 1)[-1], configuration.method])
    digest = hashlib.sha256((whole + configuration.estimator).encode()).hexdigest()[:6]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] + "-" + digest
