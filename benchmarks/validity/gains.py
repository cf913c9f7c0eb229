"""The truth that alignment is held against: success gained by short training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from validity.jobs import Job, run_jobs
from validity.pairs import Configuration, Pair
from validity.registry import pair_of
from validity.training import TrainSettings, measure, train

STEP_NORMS = (0.00625, 0.0125, 0.025, 0.05)
"""Candidates for the one step size, tried on one configuration."""


def gain_job(job: Job) -> Job:
    """Train one configuration with one seed."""
    began = time.process_time()
    pair, settings = pair_of(job["pair"]), TrainSettings(**job["settings"])
    model = train(pair, Configuration(**job["configuration"]), settings, job["seed"])
    gain = measure(pair, model, settings, job["seed"])
    return {
        "before": gain.before,
        "after": gain.after,
        "gain": gain.gain,
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def tune(
    pair: Pair,
    settings: TrainSettings,
    store: Path,
    processes: int,
    say: Callable[[str], None],
    norms: Sequence[float] = STEP_NORMS,
) -> tuple[float, list[Job]]:
    """Choose the step size by the gain of one configuration, with a seed used for nothing else."""
    jobs = [
        _job(pair, pair.tuned_on, replace(settings, step_norm=norm), seed=100) for norm in norms
    ]
    results = run_jobs(gain_job, jobs, store, processes, say)
    tried = [
        {"step_norm": norm, "gain": result["gain"]}
        for norm, result in zip(norms, results, strict=True)
    ]
    return max(tried, key=lambda item: item["gain"])["step_norm"], tried


def gains(
    pair: Pair,
    settings: TrainSettings,
    seeds: Sequence[int],
    store: Path,
    processes: int,
    say: Callable[[str], None],
) -> tuple[dict[Configuration, list[float]], float]:
    """Gain of every configuration with every seed, and the mean success before training."""
    jobs = [_job(pair, item, settings, seed) for seed in seeds for item in pair.configurations]
    results = run_jobs(gain_job, jobs, store, processes, say)
    found: dict[Configuration, list[float]] = {item: [] for item in pair.configurations}
    for job, result in zip(jobs, results, strict=True):
        found[Configuration(**job["configuration"])].append(result["gain"])
    return found, sum(result["before"] for result in results) / len(results)


def _job(pair: Pair, configuration: Configuration, settings: TrainSettings, seed: int) -> Job:
    return {
        "pair": pair.name,
        "configuration": asdict(configuration),
        "settings": asdict(settings),
        "seed": seed,
    }
