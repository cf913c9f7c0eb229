"""Does what gradalign ranks higher train better, on pairs that nothing was tuned on?

Two tiny pairs, `sorting` and `automaton`, and a real one, `smollm2`: SmolLM2-135M-Instruct on
sums. Every configuration of a pair (teacher or context, and method) is trained on-policy from the
same student, with steps of one length, of a quarter of it and by AdamW (`smollm2`: AdamW on LoRA),
by TRL's own trainers where TRL has the method. Success on held-out questions is kept question by
question.

Run: python benchmarks/evidence.py models --pair sorting            (makes the models)
     python benchmarks/evidence.py train --pair sorting --seeds 3   (trains what is missing)
     python benchmarks/evidence.py score --pair sorting             (gradalign.score)
     python benchmarks/evidence.py collect --pair sorting --seeds 3 (into the results)
     the same with --pair smollm2 --student FOLDER --seeds 2
     python benchmarks/evidence.py tables        (from the results alone: nothing is trained)
Writes evidence.json, and per pair evidence_PAIR.txt and .png, to --output-dir; among the kept
results also what verdicts say of their predictors. Everything that has
ended is kept under --work-dir, a file per training, and an interrupted command goes on with the
next one. One process and one thread; several pairs can run side by side.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import OUT, argument_parser, environment, plain, write_json
from validity.evidence_output import (
    collect,
    comparison,
    from_validity,
    overview,
    plot,
    said_in_verdicts,
    table,
)
from validity.jobs import cpu_clock, one_thread
from validity.lengths import LORA, TOYS
from validity.pairs import Pair
from validity.predicted import Budget, score_all
from validity.registry import prepared
from validity.trained import Series, gains_of, train_missing

from gradalign.report import verdict

NEW = ("sorting", "automaton", "smollm2")
RESULTS = Path(__file__).parent / "results"
SAID = Path(verdict.__file__).parent / "evidence.json"
"""What verdicts say of their predictors; written beside the kept results only."""

TRIAL_SEED = 100
"""Seed that a rate is tried with and time is measured with, and that is used for nothing else."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one part of the work for one pair."""
    parser = argument_parser(__doc__)
    parser.add_argument("part", choices=["models", "trial", "train", "score", "collect", "tables"])
    parser.add_argument("--pair", choices=NEW)
    parser.add_argument("--student", type=Path, help="SmolLM2-135M-Instruct, of pair smollm2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work-dir", type=Path, default=OUT / "evidence")
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    results = options.output_dir / "evidence.json"
    if options.part == "tables":
        write_tables(results)
        return
    if options.pair is None:
        parser.error(f"{options.part} needs --pair: {', '.join(NEW)}")
    if options.pair == "smollm2" and options.student is None:
        parser.error("--pair smollm2 needs --student, the folder of SmolLM2-135M-Instruct")
    one_thread()
    # Relative, because the models' folders are part of what a configuration is known by.
    work_dir = Path(os.path.relpath(options.work_dir))
    work = work_dir / options.pair
    with cpu_clock(work, "models"):
        pair = prepared(options.pair, work_dir, options.student, _say)
    series = series_of(pair, work)
    if options.part == "trial":
        trial(series)
    elif options.part == "train":
        train_missing(series, range(options.seeds), _say)
    elif options.part == "score":
        with cpu_clock(work, "scoring"):
            score_all(pair, BUDGETS[pair.name], work)
    elif options.part == "collect":
        report = score_all(pair, BUDGETS[pair.name], work)  # what is there is taken as it is
        result = collect(pair, series, range(options.seeds), report)
        keep(results, {**result, "environment": environment()})
        write_tables(results)


BUDGETS = {
    "sorting": Budget(),
    "automaton": Budget(),
    "smollm2": Budget(questions=96, continuations=4, space="lora:rank=16", batch=8),
}


def keep(path: Path, result: dict[str, Any]) -> None:
    """Put the results of a pair among those that are kept, in the place of earlier ones."""
    known = json.loads(path.read_text())["pairs"] if path.is_file() else []
    known = [item for item in known if item["pair"] != result["pair"]]
    pairs = sorted([*known, plain(result)], key=lambda item: NEW.index(item["pair"]))
    write_json(path, {"pairs": pairs}, indent=0)


def write_tables(path: Path) -> None:
    """Compare what the results hold, and write the comparison, a table and a figure per pair.

    The pairs of predictive_validity.json beside it are compared in the same way.
    """
    pairs = json.loads(path.read_text())["pairs"] if path.is_file() else []
    old = path.with_name("predictive_validity.json")
    others = json.loads(old.read_text())["pairs"] if old.is_file() else []
    results = [*(from_validity(item) for item in others), *pairs]
    compared = {}
    for item in results:
        compared[item["pair"]] = plain(comparison(item))
        text = table(item, compared[item["pair"]])
        print(text, end="\n\n")
        stem = path.with_name(f"evidence_{item['pair']}")
        stem.with_suffix(".txt").write_text(text + "\n")
        plot(item, compared[item["pair"]], stem.with_suffix(".png"))
    small = overview(results, compared)
    print(small)
    write_json(path, {"overview": small, "comparison": compared, "pairs": pairs}, indent=0)
    if path.parent == RESULTS:
        write_json(SAID, said_in_verdicts(results, compared), indent=0)


def series_of(pair: Pair, work: Path) -> list[Series]:
    """Every way in which a pair is trained."""
    ways = LORA if pair.name == "smollm2" else TOYS
    return [Series(pair, way, settings, work / "trained") for way, settings in ways.items()]


def trial(series: Sequence[Series]) -> None:
    """Train the configuration that a pair is tuned on with the trial seed; say gain and time."""
    for one in series:
        if not one.file(one.pair.tuned_on, TRIAL_SEED).is_file():
            record = one.run(one.pair.tuned_on, TRIAL_SEED)
            _say(f"{one.way}: {gains_of(record)}, {record['cpu_seconds']} seconds of CPU")


_say: Callable[[str], None] = lambda text: print(  # noqa: E731
    time.strftime("%H:%M:%S"), text, flush=True
)


if __name__ == "__main__":
    main()
