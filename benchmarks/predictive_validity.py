"""Does what gradalign ranks higher train better? Alignment against real on-policy training.

For every configuration (teacher or context, and method) of a pair:
  alignment  by `gradalign.score` on training questions: pooled, mean, balanced, and that of the
             weights' updates: their cosine, and the gain per step of two lengths
  gain       in success on held-out questions after a few on-policy steps of equal length from the
             same student, whose direction is `Method.ascent` on every token of every response
and, over configurations, Spearman's rank correlation of the gain with each alignment and with what
people use today: the teacher's accuracy and its gap to the student's, divergences, the overlap of
top tokens, the entropy gap, GRACE. Position alone, which ranks tokens, is the same for every
teacher: it is held against alignment node by node. Then what is said of teachers that were told
something false, useless or nothing, against what they gained. The step length is tuned once, on
one configuration, with a seed that is used for nothing else. Last, selective distillation: the
same scored responses, different tokens of them.

Run: python benchmarks/predictive_validity.py                 (all of it)
     python benchmarks/predictive_validity.py --quick         (a few configurations, 2 minutes)
     python benchmarks/predictive_validity.py --trained benchmarks/results/predictive_validity.json
                                                              (scores anew, trains only
                                                              configurations that are not there)
     the same and --scored DIR                                (reads the runs of an earlier
                                                              --work-dir, scores nothing either)
Writes predictive_validity.json, .txt and (with matplotlib) .png to --output-dir. What is done is
kept under --work-dir, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import OUT, argument_parser, environment, write_json
from validity.controls import against_controls, information, position_alone, verdict
from validity.gains import Trainings, longest_short, trainer_of
from validity.jobs import cpu_clock, cpu_seconds, one_thread, run_jobs
from validity.output import plot, table
from validity.pairs import CONTROLS, Configuration, Pair
from validity.ranks import correlate_all, difference, reliability
from validity.registry import prepared
from validity.rehearsed import accuracy_of, rehearse, rehearsed
from validity.scoring import (
    ScoreSettings,
    alignments,
    cheap_predictors,
    score,
    teacher_accuracies,
)
from validity.selection import SELECTIONS, selection_job
from validity.training import TrainSettings

import gradalign

HERE = Path(__file__).parent
TUNED = ("addition", "counting")
"""Pairs that the tool's defaults were chosen on; evidence.py has the others."""

CHEAP = ("accuracy", "accuracy_gap", "reverse_kl", "forward_kl", "overlap", "entropy_gap", "grace")
"""What people use today; no targeted rollouts are needed for it."""

RIVALS = (*CHEAP, "teacher_advantage")
"""What the tool's figures have to be better than."""

NODES = ("pooled", "mean", "balanced")
TOOL = (*NODES, "weights", "gain_one", "gain_batch", "rehearsed")
"""What the tool says of a teacher and a method: of nodes, of the weights' updates, and of the
training when it is rehearsed."""

EVERY_TOKEN = "_every"
"""Ends the name of what the tool says when every teacher's top tokens are candidates."""

PREDICTORS = (
    *TOOL,
    *(name + EVERY_TOKEN for name in NODES),
    *RIVALS,
)
QUICK_METHODS = ("gkd:beta=0", "opd", "random")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output-dir", type=Path, default=HERE / "results")
    parser.add_argument("--work-dir", type=Path, default=OUT / "validity")
    parser.add_argument("--pair", choices=[*TUNED, "all"], default="all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--trained",
        type=Path,
        help="results whose gains are taken; only configurations that they lack are trained",
    )
    parser.add_argument(
        "--scored", type=Path, help="an earlier --work-dir, whose scored runs are read as they are"
    )
    parser.add_argument("--quick", action="store_true", help="a small version, for tests")
    parser.add_argument(
        "--without-trl", action="store_true", help="train everything by the plain loop"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.processes < 1:
        parser.error("--seeds and --processes must be at least 1")
    began = time.perf_counter()
    names = list(TUNED) if options.pair == "all" else [options.pair]
    if options.quick:
        names = names[:1]
    results = []
    # Relative, because the models' folders are part of what a training is known by.
    work_dir = Path(os.path.relpath(options.work_dir))
    trained: dict[str, Any] = {}
    if options.trained is not None:
        kept = json.loads(options.trained.read_text())["pairs"]
        trained = {item["pair"]: item for item in kept}
    for name in names:
        work = work_dir / name
        with cpu_clock(work, "models"):
            pair = prepared(name, work_dir)
        results.append(
            run_pair(
                pair,
                work,
                options.seeds,
                options.processes,
                quick=options.quick,
                use_trl=not options.without_trl,
                trained=trained.get(name),
                scored=None if options.scored is None else options.scored / name,
            )
        )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    stem = "predictive_validity_quick" if options.quick else "predictive_validity"
    seconds = round(time.perf_counter() - began, 1)
    whole = {"environment": environment(), "seconds": seconds, "pairs": results}
    path = options.output_dir / f"{stem}.json"
    write_json(path, whole)
    text = "\n\n".join(table(result) for result in results)
    path.with_suffix(".txt").write_text(text + "\n")
    print(text)
    plot(results, path.with_suffix(".png"))


TRAINED = ("before", "seeds", "settings", "tuning", "steps", "both_loops", "selective_steps",
           "selective")  # fmt: skip
"""What trainings alone give, in the results of a pair."""


def run_pair(
    pair: Pair,
    work: Path,
    seeds: int,
    processes: int,
    *,
    quick: bool,
    use_trl: bool,
    trained: dict[str, Any] | None = None,
    scored: Path | None = None,
) -> dict[str, Any]:
    """Score, train and compare everything of one pair.

    Args:
        pair: what is trained.
        work: its work folder.
        seeds: trainings of each configuration.
        processes: trainings at once.
        quick: a small version.
        use_trl: train what TRL implements by TRL.
        trained: results of the pair, whose trainings are taken; only what they lack is trained.
        scored: an earlier work folder of the pair, whose runs are read instead.
    """
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
        settings = TrainSettings(0.025, checkpoints=(6,), prompts=16, eval_prompts=1024)
        budget, seeds = ScoreSettings(questions=24, continuations=4), 1
    trainings = Trainings(pair, settings, work / "gains.jsonl", processes, say)
    with cpu_clock(work, "scoring"):
        if scored is None:
            report = score(pair, budget, work, weights=True)
            every = score(pair, replace(budget, min_prob=0.0), work / "every-token")
        else:
            report, every = (
                gradalign.read_report(str(folder / "run"))
                for folder in (scored, scored / "every-token")
            )
    if trained is not None:
        trainings = replace(trainings, settings=_settings_of(trained))
        found, labels = with_missing(trainings, trained, use_trl=use_trl)
        kept = {name: trained[name] for name in TRAINED if name in trained}
        checkpoint = list(trained["settings"]["checkpoints"]).index(trained["steps"])
        with cpu_clock(work, "predictors"):
            report = rehearse(report, trainings.settings, work / "rehearsed")
            predicted = predictors(pair, report, every, work, 1024, trained["before"])
        compared = compare(found, predicted, checkpoint, use_trl)
        return {
            "pair": pair.name,
            **kept,
            "trainings": [*trained["trainings"], *_trained_now(labels)],
            "score_settings": asdict(budget),
            "score_totals": report.metadata["totals"],
            "score_totals_every_token": every.metadata["totals"],
            **compared,
            **told(report, compared["configurations"]),
            "rehearsals": accuracy_of(
                compared["configurations"], trained["settings"]["checkpoints"]
            ),
            "cpu_seconds": _spent(cpu_seconds(work), trained["cpu_seconds"], fresh=bool(labels)),
        }
    tried = [] if quick else trainings.tuning()
    checkpoint = -1
    for row in tried:
        if row["step_norm"] == settings.step_norm:
            checkpoint = longest_short(row["gains"], settings.checkpoints)
    found, before = trainings.gains(pair.configurations, range(seeds), use_trl=use_trl)
    with cpu_clock(work, "predictors"):
        report = rehearse(report, settings, work / "rehearsed")
        predicted = predictors(pair, report, every, work, 128 if quick else 1024, before)
    compared = compare(found, predicted, checkpoint, use_trl)
    result: dict[str, Any] = {
        "pair": pair.name,
        "before": before,
        "seeds": seeds,
        "trainings": _trained_now([item.label for item in found]),
        "settings": asdict(settings),
        "score_settings": asdict(budget),
        "score_totals": report.metadata["totals"],
        "score_totals_every_token": every.metadata["totals"],
        "tuning": tried,
        "steps": settings.checkpoints[checkpoint],
        "both_loops": trainings.both_loops(0) if use_trl and not quick else [],
        **compared,
        **told(report, compared["configurations"]),
        "rehearsals": accuracy_of(compared["configurations"], settings.checkpoints),
    }
    if pair.selective:
        half = replace(settings, checkpoints=settings.checkpoints[:-1])
        result["selective_steps"] = half.steps
        result["selective"] = selective(pair, report, half, seeds, work, processes, say)
    result["cpu_seconds"] = cpu_seconds(work)
    return result


def with_missing(
    trainings: Trainings, trained: dict[str, Any], *, use_trl: bool
) -> tuple[dict[Configuration, list[list[float]]], list[str]]:
    """Return gains of every configuration, trained where the kept results lack it.

    Args:
        trainings: of the pair, with the kept settings.
        trained: kept results of the pair.
        use_trl: train what TRL implements by TRL.

    Returns:
        Gains per configuration, seed and checkpoint; and the labels of what was trained.

    Raises:
        ValueError: the student does not succeed as often as it did when the others were trained.
    """
    # Known by label: models' folders may lie elsewhere now.
    kept = {
        (row["label"], row["estimator"]): row["gains_by_checkpoint"]
        for row in trained["configurations"]
    }
    items = trainings.pair.configurations
    missing = [item for item in items if (item.label, item.estimator) not in kept]
    fresh: dict[Configuration, list[list[float]]] = {}
    if missing:
        fresh, before = trainings.gains(missing, range(trained["seeds"]), use_trl=use_trl)
        if abs(before - trained["before"]) > 1e-6:
            raise ValueError(
                f"{trainings.pair.name}: the student succeeds at {before:.6f}, and at "
                f"{trained['before']:.6f} in the kept results: it is another one."
            )
    found = {item: fresh.get(item) or kept[item.label, item.estimator] for item in items}
    return found, [item.label for item in missing]


def _settings_of(trained: dict[str, Any]) -> TrainSettings:
    settings = trained["settings"]
    return TrainSettings(**{**settings, "checkpoints": tuple(settings["checkpoints"])})


def _trained_now(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return what says when and with what configurations were trained; empty for none."""
    own = environment()
    return [{"date": own["date"], "versions": own["versions"], "labels": labels}] if labels else []


def told(report: gradalign.Report, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a run says of false, useless and missing information, beside trainings."""
    return {
        "verdict": verdict(report, rows),
        "against_controls": against_controls(report, rows),
        "information": information(report, rows),
        "position": position_alone(report),
    }


def _spent(now: dict[str, float], before: dict[str, float], *, fresh: bool) -> dict[str, float]:
    """Add what kept trainings and models took to what was spent now, on `fresh` ones too."""
    trainings = before["trainings"] + (now["trainings"] if fresh else 0.0)
    spent = {**now, "trainings": round(trainings, 1), "models": before["models"]}
    spent["all"] = round(sum(value for name, value in spent.items() if name != "all"), 1)
    return spent


def predictors(
    pair: Pair,
    report: gradalign.Report,
    every: gradalign.Report,
    work: Path,
    accuracy_prompts: int,
    student: float,
) -> dict[Configuration, dict[str, Any]]:
    """Everything that may predict the gain, per configuration; the slow part is kept in `work`.

    Args:
        pair: what was trained.
        report: scored with the tool's own choice of candidates, and rehearsed.
        every: scored with every teacher's top tokens as candidates.
        work: the pair's work folder.
        accuracy_prompts: questions on which teachers answer by themselves.
        student: the student's own success.
    """
    kept = work / "predictors.json"
    if not kept.is_file():
        write_json(kept, {"accuracy": teacher_accuracies(pair, accuracy_prompts)})
    cheap = cheap_predictors(report, pair, json.loads(kept.read_text())["accuracy"], student)
    aligned, with_every = alignments(report, pair), alignments(every, pair)
    curves = rehearsed(report, pair)
    return {
        item: {
            **aligned.get(item, {}),
            **{name + EVERY_TOKEN: with_every.get(item, {}).get(name, np.nan) for name in NODES},
            **cheap.get(item.teacher, {}),
            **curves.get(item, {}),
        }
        for item in pair.configurations
    }


def compare(
    found: dict[Configuration, list[list[float]]],
    values: dict[Configuration, dict[str, Any]],
    checkpoint: int,
    use_trl: bool,
) -> dict[str, Any]:
    """Put every configuration's predictors beside its gain, and correlate them.

    `informed` are those without a teacher that is told something false, useless or nothing.

    Args:
        found: gains per configuration, seed and checkpoint.
        values: predictors per configuration.
        checkpoint: index of the one that counts; correlations at the others are beside it.
        use_trl: whether TRL trained what it implements.
    """
    rows = []
    for item, gains in found.items():
        row: dict[str, Any] = {**asdict(item), "label": item.label}
        row["trainer"] = trainer_of(item, use_trl=use_trl)
        row["gains_by_checkpoint"] = gains
        row["gains"] = [seed[checkpoint] for seed in gains]
        row["gain"], row["gain_se"] = _mean_of(row["gains"]).values()
        row |= values[item]
        if "rehearsed_by_checkpoint" in row:
            row["rehearsed"] = row["rehearsed_by_checkpoint"][checkpoint]
        rows.append(row)
    taught = [row for row in rows if row["teacher"]]
    informed = [row for row in rows if row["teacher"].partition("+")[2] not in CONTROLS]
    return {
        "configurations": rows,
        "reliability": reliability([row["gains"] for row in rows]),
        "correlations": _correlations(rows),
        "correlations_teachers": _correlations(taught),
        "correlations_informed": _correlations(informed),
        "differences": _differences(taught),
        "differences_informed": _differences([row for row in informed if row["teacher"]]),
        "by_checkpoint": _by_checkpoint(rows),
        "by_checkpoint_informed": _by_checkpoint(informed),
    }


def _by_checkpoint(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Correlate with the gains after each number of steps."""
    return [
        _correlations([_after(row, at) for row in rows])
        for at in range(len(rows[0]["gains_by_checkpoint"][0]))
    ]


def _after(row: dict[str, Any], at: int) -> dict[str, Any]:
    """A configuration with what it gained, and was said to gain, at one checkpoint."""
    changed = {"gains": [seed[at] for seed in row["gains_by_checkpoint"]]}
    if "rehearsed_by_checkpoint" in row:
        changed["rehearsed"] = row["rehearsed_by_checkpoint"][at]
    return row | changed


def _mean_of(gains: list[float]) -> dict[str, float | None]:
    """The mean over seeds and its standard error, None for one seed."""
    count = len(gains)
    spread = float(np.std(gains, ddof=1) / np.sqrt(count)) if count > 1 else None
    return {"mean": float(np.mean(gains)), "se": spread}


def _correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = {name: [row.get(name, np.nan) for row in rows] for name in PREDICTORS}
    found = correlate_all(values, [row["gains"] for row in rows])
    return {name: value.to_dict("rho") for name, value in found.items()}


def _differences(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each of the tool's figures against each of its rivals."""
    gains = [row["gains"] for row in rows]

    def values(name: str) -> list[float]:
        return [row.get(name, np.nan) for row in rows]

    return {
        name: {
            other: difference(values(name), values(other), gains).to_dict("difference")
            for other in RIVALS
        }
        for name in TOOL
    }


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
                **_mean_of(drawn),
                "share": own[0]["tokens"] / own[0]["pool_tokens"],
            }
        rows.append({"label": item.label, "gains": by_name})
    return rows


if __name__ == "__main__":
    main()
