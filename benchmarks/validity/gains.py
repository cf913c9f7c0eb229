"""The truth that alignment is held against: success gained by short training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from validity.jobs import Job, run_jobs
from validity.pairs import Configuration, Pair
from validity.registry import pair_of
from validity.training import Gain, TrainSettings, measure, train
from validity.trl_training import implements, train_with_trl

STEP_NORMS = (0.003125, 0.00625, 0.0125)
"""Lengths of a step that are tried on `tuned_on` and on a random direction."""

TUNING_SEED = 100
"""Seed of those trials, used for nothing else."""


PROPORTIONAL = 2 / 3
"""A training counts as short while its gain per step is this share of that at first, or more."""


def longest_short(gains: Sequence[float], checkpoints: Sequence[int]) -> int:
    """Index of the last checkpoint up to which the gain has grown in proportion to the steps.

    Beyond it the gain saturates: what a first-order quantity says of the start counts for less.
    """
    rate_C = [gain / steps for gain, steps in zip(gains, checkpoints, strict=True)]
    short = [i for i, rate in enumerate(rate_C) if rate >= PROPORTIONAL * rate_C[0]]
    return short[-1]


def gain_job(job: Job) -> Job:
    """Train one configuration with one seed; the gain at every checkpoint."""
    began = time.process_time()
    pair, settings = pair_of(job["pair"]), TrainSettings(**job["settings"])
    configuration = Configuration(**job["configuration"])
    found: list[Gain] = []

    def watch(step: int, model: torch.nn.Module) -> None:
        if step in settings.checkpoints:
            found.append(measure(pair, model, settings, job["seed"]))

    loop = train_with_trl if job["trainer"] == "trl" else train
    loop(pair, configuration, settings, job["seed"], watch)
    return {
        "before": found[0].before,
        "gains": [gain.gain for gain in found],
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def trainer_of(configuration: Configuration, *, use_trl: bool) -> str:
    """Which loop trains a configuration: TRL's trainer where it has one, else the plain loop."""
    return "trl" if use_trl and implements(configuration) else "plain"


@dataclass(frozen=True)
class Trainings:
    """Runs trainings of one pair, and keeps what is done.

    Attributes:
        pair: what is trained.
        settings: how.
        store: the JSONL file of finished trainings.
        processes: how many run at a time.
        say: is told of every finished training.
    """

    pair: Pair
    settings: TrainSettings
    store: Path
    processes: int
    say: Callable[[str], None]

    def tuning(self, norms: Sequence[float] = STEP_NORMS) -> list[Job]:
        """Gains of `tuned_on` and of a random direction at several step lengths, plain loop."""
        items = (self.pair.tuned_on, Configuration("", "random"))
        jobs = [
            self._job(item, TUNING_SEED, "plain", replace(self.settings, step_norm=norm))
            for norm in norms
            for item in items
        ]
        gains = [result["gains"] for result in self._run(jobs)]
        return [
            {"step_norm": norm, "gains": tuned_on, "random": random}
            for norm, tuned_on, random in zip(norms, gains[::2], gains[1::2], strict=True)
        ]

    def gains(
        self, items: Sequence[Configuration], seeds: Sequence[int], *, use_trl: bool
    ) -> tuple[dict[Configuration, list[list[float]]], float]:
        """Gains per configuration, seed and checkpoint, and the mean success before training."""
        jobs = [
            self._job(item, seed, trainer_of(item, use_trl=use_trl))
            for seed in seeds
            for item in items
        ]
        results = self._run(jobs)
        found: dict[Configuration, list[list[float]]] = {item: [] for item in items}
        for job, result in zip(jobs, results, strict=True):
            found[Configuration(**job["configuration"])].append(result["gains"])
        return found, sum(result["before"] for result in results) / len(results)

    def both_loops(self, seed: int) -> list[Job]:
        """Gains with one seed by TRL and by the plain loop: one teacher's methods, and Dr. GRPO."""
        items = [
            item
            for item in self.pair.configurations
            if implements(item) and item.teacher in ("", self.pair.tuned_on.teacher)
        ]
        jobs = [self._job(item, seed, loop) for item in items for loop in ("trl", "plain")]
        gains = [result["gains"] for result in self._run(jobs)]
        return [
            {"label": item.label, "trl": by_trl, "plain": plain}
            for item, by_trl, plain in zip(items, gains[::2], gains[1::2], strict=True)
        ]

    def _run(self, jobs: list[Job]) -> list[Job]:
        return run_jobs(gain_job, jobs, self.store, self.processes, self.say)

    def _job(
        self,
        configuration: Configuration,
        seed: int,
        trainer: str,
        settings: TrainSettings | None = None,
    ) -> Job:
        return {
            "pair": self.pair.name,
            "configuration": asdict(configuration),
            "settings": asdict(settings or self.settings),
            "seed": seed,
            "trainer": trainer,
        }
