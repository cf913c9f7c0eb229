"""Does what gradalign ranks higher train better? Alignment against real on-policy training.

For every configuration (teacher or context, and method) of a pair:
  alignment  by `gradalign.score` on training questions: pooled, mean, and update-level
  gain       in success on held-out questions after a few on-policy steps of equal length from the
             same student, whose direction is `Method.ascent` on every token of every response
and, over configurations, Spearman's rank correlation of the gain with each alignment and with what
people use today: the teacher's accuracy, the divergence, the overlap of top tokens. The step length
is tuned once, on one configuration, with a seed that is used for nothing else. Then selective
distillation: the same scored responses, different tokens of them.

Run: python benchmarks/predictive_validity.py                 (all of it)
     python benchmarks/predictive_validity.py --quick         (a few configurations, 2 minutes)
Writes predictive_validity.json, .txt and (with matplotlib) .png to --output-dir. What is done is
kept under --work-dir, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from validity.gains import Trainings, trainer_of
from validity.jobs import one_thread, run_jobs
from validity.output import environment, plot, table
from validity.pairs import Configuration, Pair
from validity.ranks import correlate_all, reliability
from validity.registry import PAIRS, prepared
from validity.scoring import ScoreSettings, alignments, cheap_predictors, score
from validity.selection import SELECTIONS, selection_job
from validity.training import TrainSettings

from gradalign.stages.update_level import update_level

HERE = Path(__file__).parent
PREDICTORS = (
    "pooled",
    "mean",
    "update",
    "teacher_advantage",
    "accuracy",
    "reverse_kl",
    "forward_kl",
    "overlap",
)
QUICK_METHODS = ("gkd:beta=0", "opd", "random")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=HERE / "results")
    parser.add_argument("--work-dir", type=Path, default=HERE / "out" / "validity")
    parser.add_argument("--pair", choices=[*PAIRS, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small version, for tests")
    parser.add_argument(
        "--without-trl", action="store_true", help="train everything by the plain loop"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.processes < 1:
        parser.error("--seeds and --processes must be at least 1")
    began = time.perf_counter()
    names = list(PAIRS) if options.pair == "all" else [options.pair]
    if options.quick:
        names = names[:1]
    results = []
    # Relative, because the models' folders are part of what a training is known by.
    work_dir = Path(os.path.relpath(options.work_dir))
    for name in names:
        pair = prepared(name, work_dir)
        work = work_dir / name
        results.append(
            run_pair(
                pair,
                work,
                options.seeds,
                options.processes,
                quick=options.quick,
                use_trl=not options.without_trl,
            )
        )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    stem = "predictive_validity_quick" if options.quick else "predictive_validity"
    seconds = round(time.perf_counter() - began, 1)
    whole = {"environment": environment(), "seconds": seconds, "pairs": results}
    path = options.output_dir / f"{stem}.json"
    path.write_text(json.dumps(_plain(whole), indent=1, allow_nan=False) + "\n")
    text = "\n\n".join(table(result) for result in results)
    path.with_suffix(".txt").write_text(text + "\n")
    print(text)
    plot(results, path.with_suffix(".png"))


def run_pair(
    pair: Pair, work: Path, seeds: int, processes: int, *, quick: bool, use_trl: bool
) -> dict[str, Any]:
    """Score, train and compare everything of one pair."""
    one_thread()
    say: Callable[[str], None] = lambda text: print(text[:160], flush=True)  # noqa: E731
    settings, budget = TrainSettings(), ScoreSettings()
    if quick:
        pair = replace(
            pair,
            configurations=tuple(
                item
                for item in pair.configurations
                if item.method in QUICK_METHODS and item.context in ("none", "wrong-answer")
            ),
            selective=(),
        )
        settings = replace(settings, step_norm=0.025, steps=6, prompts=16, eval_prompts=1024)
        budget, seeds = ScoreSettings(questions=24, continuations=4), 1
    trainings = Trainings(pair, settings, work / "gains.jsonl", processes, say)
    report = score(pair, budget, work)
    tried = [] if quick else trainings.tuning()
    found, before = trainings.gains(range(seeds), use_trl=use_trl)
    result = {
        "pair": pair.name,
        "before": before,
        "seeds": seeds,
        "settings": asdict(settings),
        "score_settings": asdict(budget),
        "score_totals": report.metadata["totals"],
        "tuning": tried,
        "both_loops": trainings.both_loops(0) if use_trl and not quick else [],
        **compare(found, predictors(pair, report, work, 128 if quick else 1024), use_trl),
    }
    if pair.selective:
        result["selective"] = selective(pair, report, settings, seeds, work, processes, say)
    return result


def predictors(
    pair: Pair, report: Any, work: Path, accuracy_prompts: int
) -> dict[Configuration, dict[str, float]]:
    """Everything that may predict the gain, per configuration; kept in the work folder."""
    kept = work / "predictors.json"
    if not kept.is_file():
        update = update_level(report.path).to_dict("records")
        cheap = cheap_predictors(report, pair, accuracy_prompts)
        kept.write_text(json.dumps({"update": update, "cheap": cheap}))
    known = json.loads(kept.read_text())
    update = {(row["teacher"], row["method"]): row for row in known["update"]}
    aligned = alignments(report, pair)
    found: dict[Configuration, dict[str, float]] = {}
    for item in pair.configurations:
        found[item] = aligned.get(item, {}) | known["cheap"].get(item.teacher, {})
        row = update.get((item.teacher, item.method))
        if row is not None:
            found[item] |= {key: row[key] for key in ("update", "update_low", "update_high")}
    return found


def compare(
    found: dict[Configuration, list[float]],
    values: dict[Configuration, dict[str, float]],
    use_trl: bool,
) -> dict[str, Any]:
    """Put every configuration's predictors beside its gain, and correlate them."""
    rows = []
    for item, gain in found.items():
        row: dict[str, Any] = {**asdict(item), "label": item.label, "gains": gain}
        row["trainer"] = trainer_of(item, use_trl=use_trl)
        row["gain"] = float(np.mean(gain))
        row["gain_se"] = float(np.std(gain, ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None
        rows.append(row | values[item])
    taught = [row for row in rows if row["teacher"]]
    return {
        "configurations": rows,
        "reliability": reliability([row["gains"] for row in rows]),
        "correlations": _correlations(rows),
        "correlations_teachers": _correlations(taught),
    }


def _correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = {name: [row.get(name, np.nan) for row in rows] for name in PREDICTORS}
    found = correlate_all(values, [row["gains"] for row in rows])
    return {name: asdict(value) for name, value in found.items()}


def selective(
    pair: Pair,
    report: Any,
    settings: TrainSettings,
    seeds: int,
    work: Path,
    processes: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Gain of every selection of tokens, for the pair's configurations chosen for that."""
    jobs = [
        {
            "pair": pair.name,
            "configuration": asdict(item),
            "settings": asdict(settings),
            "seed": seed,
            "selection": name,
            "run": report.path,
        }
        for seed in range(seeds)
        for item in pair.selective
        for name in SELECTIONS
    ]
    results = run_jobs(selection_job, jobs, work / "selective.jsonl", processes, say)
    rows = []
    for item in pair.selective:
        by_name: dict[str, Any] = {}
        for name in SELECTIONS:
            own = [
                result
                for job, result in zip(jobs, results, strict=True)
                if job["configuration"] == asdict(item) and job["selection"] == name
            ]
            drawn = [result["gain"] for result in own]
            by_name[name] = {
                "gains": drawn,
                "mean": float(np.mean(drawn)),
                "share": own[0]["tokens"] / own[0]["pool_tokens"],
            }
        rows.append({"label": item.label, "gains": by_name})
    return rows


def _plain(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    main()
