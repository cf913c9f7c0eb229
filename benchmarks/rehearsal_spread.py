"""Do a verdict's standard errors of rehearsed gains hold what other questions would have said?

Independent runs of the bundled pair, each on questions of its own, are rehearsed. The spread of
an arm's gain, and of the difference of two arms, between runs is held against what a run says of
itself: the standard error that counts what questions say, and which of them trained.

    python benchmarks/rehearsal_spread.py --out benchmarks/results/rehearsal_spread.json
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import OUT, argument_parser, environment, write_json
from exact_language import problems
from rehearsal_truth import RUN, task_of

import gradalign
from gradalign.alignment.findings import spread

SEED = 1000
STEPS = (3, 6, 12, 24)
CHANGES = {
    "teachers": ["demo:strong", "demo:weak", "self+answer"],
    "methods": ["gkd:beta=0", "opd"],
    "num_rollouts": 4,
    "nodes": 8,
    "rehearse": True,
    "rehearse_step": "length=0.00625",
    "rehearse_steps": list(STEPS),
    "rehearse_responses": 8,
}
"""What these runs have otherwise than those of `rehearsal_truth`."""


def said_by(folder: Path, questions: int, seed: int) -> dict[str, Any]:
    """Rehearse one run, and return what it says; one that is there is taken."""
    kept = folder / f"{seed}.json"
    if not kept.is_file():
        task = task_of(folder, f"questions{seed}", problems(questions, SEED + seed))
        place = folder / f"run{seed}"
        report = gradalign.score(
            **{**RUN, **CHANGES}, task=str(task), seed=seed, output_dir=str(place)
        )
        curves, verdict = report.curves, report.recommend()
        at = {(str(arm), p.steps): p for arm, points in curves.items() for p in points if p.trusted}
        write_json(
            kept,
            {
                "gains": [
                    [arm, steps, p.gain.value, p.gain.se, p.estimate.se]
                    for (arm, steps), p in at.items()
                ],
                "differences": [
                    [one, other, steps, at[one, steps].gain.value - at[other, steps].gain.value,
                     spread(at[one, steps].influence_Q - at[other, steps].influence_Q)]
                    for one, other in itertools.combinations(map(str, curves), 2)
                    for steps in STEPS
                    if (one, steps) in at and (other, steps) in at
                ],
                "verdict": [verdict.basis, verdict.verdict, verdict.teacher],
            },
        )  # fmt: skip
        shutil.rmtree(place)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def compared(runs: list[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """Return per number of steps the spread between runs over the errors that runs state.

    Args:
        runs: what each says.
        least: runs in which an arm has to be trusted.
    """
    rows = []
    for steps in STEPS:
        found: dict[str, Any] = {"steps": steps}
        for name, place in (("of_questions", 3), ("gain", 4)):
            said: dict[str, list[tuple[float, float]]] = {}
            for run in runs:
                for item in run["gains"]:
                    if item[1] == steps:
                        said.setdefault(item[0], []).append((item[2], item[place]))
            found[name] = _ratio(said, least)
        pairs: dict[str, list[tuple[float, float]]] = {}
        for run in runs:
            for one, other, own, value, error in run["differences"]:
                if own == steps:
                    pairs.setdefault(f"{one} - {other}", []).append((value, error))
        found["difference"] = _ratio(pairs, least)
        rows.append(found)
    return rows


def _ratio(said: dict[str, list[tuple[float, float]]], least: int) -> float:
    """Return the root of the mean ratio of variances, over what is said often enough."""
    ratios = []
    for values in said.values():
        if len(values) >= least:
            gain_R, error_R = np.array(values).T
            ratios.append(gain_R.var(ddof=1) / (error_R**2).mean())
    return math.sqrt(float(np.mean(ratios))) if ratios else math.nan


def main() -> None:
    """Run, compare and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--work-dir", type=Path, default=OUT / "rehearsal_spread")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(args.runs):
        runs.append(said_by(args.work_dir, args.questions, seed))
        print(seed, runs[-1]["verdict"], flush=True)
    rows = compared(runs, args.runs // 2)
    for row in rows:
        print(row)
    if args.out:
        write_json(
            args.out,
            {
                "environment": environment(),
                "seconds": time.perf_counter() - begin,
                "settings": {"questions": args.questions, "runs": args.runs},
                "rows": rows,
                "verdicts": [run["verdict"] for run in runs],
            },
        )


if __name__ == "__main__":
    main()
