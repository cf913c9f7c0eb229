"""Does a rehearsal know where it is blind? Trainings that go wrong, trained and rehearsed.

`long`: arms of the bundled pair with steps ten times as long as those of the validity benchmark,
of which `auto` has to choose shorter ones. `foreign`: a teacher of the pair `automaton` that is
right in a notation of its own, which the verifier does not know. Each point of a rehearsed curve
either agrees with the training or is not trusted.

    python benchmarks/rehearsal_limits.py --out benchmarks/results/rehearsal_limits.json
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import OUT, argument_parser, environment, write_json
from validity.jobs import one_thread
from validity.pairs import Configuration, Pair
from validity.registry import prepared
from validity.rehearsed import rehearse
from validity.scoring import ScoreSettings, score
from validity.training import TrainSettings, measure, train

from gradalign.estimates import Arm

WAY = 0.00625
"""Length of a step of the validity benchmark."""


@dataclass(frozen=True)
class Case:
    """What is trained and rehearsed.

    Attributes:
        name: of the case.
        pair: of models, by name.
        length: of a step.
        steps: after which both are read.
        teachers: by the last part of their names.
        methods: of each teacher.
    """

    name: str
    pair: str
    length: float
    steps: tuple[int, ...]
    teachers: tuple[str, ...]
    methods: tuple[str, ...]


CASES = (
    Case("long", "addition", 10 * WAY, (1, 3, 6, 12), ("demo:strong", "self+answer"), ("opd",)),
    Case("foreign", "automaton", WAY, (12, 24, 48, 96), ("foreign",), ("gkd:beta=0", "opd")),
)


def trained(
    pair: Pair, configuration: Configuration, settings: TrainSettings, seeds: int
) -> list[list[float]]:
    """Return the gains after every checkpoint, of every seed."""
    found = []
    for seed in range(seeds):
        gains: list[float] = []

        def watch(step: int, model: Any, gains: list[float] = gains, seed: int = seed) -> None:
            if step in settings.checkpoints:
                gains.append(measure(pair, model, settings, seed).gain)

        train(pair, configuration, settings, seed, watch)
        found.append(gains)
    return found


def compared(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Train and rehearse a case."""
    pair = prepared(case.pair, Path(os.path.relpath(args.work_dir)))
    arms = [
        item
        for item in pair.configurations
        if item.teacher.rsplit("/", 1)[-1] in case.teachers
        and item.method in case.methods
        and item.estimator == "expected"
    ]
    pair = replace(pair, configurations=tuple(arms))
    budget = ScoreSettings(questions=args.questions)
    report = score(pair, budget, args.work_dir / case.name, weights=True)
    settings = TrainSettings(case.length, checkpoints=case.steps, eval_prompts=args.eval_prompts)
    folder = args.work_dir / f"{case.name}-rehearsed"
    report = rehearse(report, settings, folder)
    rows = []
    for item in arms:
        gains = trained(pair, item, settings, args.seeds)
        for place, point in enumerate(report.curves[Arm(item.teacher, item.method)]):
            rows.append(
                {
                    "arm": item.label,
                    "steps": point.steps,
                    "trained": float(np.mean([own[place] for own in gains])),
                    "seeds": [own[place] for own in gains],
                    "rehearsed": list(point.gain.span),
                    "effective": point.effective,
                    "outside": point.outside,
                    "divergence": point.divergence,
                    "why_not_trusted": point.why,
                }
            )
            print(rows[-1], flush=True)
    chosen = rehearse(report, settings, folder.with_name(f"{case.name}-auto"), step="auto")
    length = float(chosen.table("rehearsals")["length"].iloc[0])
    return {"name": case.name, "length": case.length, "auto_length": length, "rows": rows}


def main() -> None:
    """Train, rehearse, compare and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=96)
    parser.add_argument("--eval-prompts", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--work-dir", type=Path, default=OUT / "rehearsal_limits")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    one_thread()
    cases = [compared(case, args) for case in CASES]
    if args.out:
        settings = {name: getattr(args, name) for name in ("questions", "eval_prompts", "seeds")}
        write_json(
            args.out,
            {
                "environment": environment(),
                "seconds": time.perf_counter() - begin,
                "settings": settings,
                "cases": cases,
            },
        )


if __name__ == "__main__":
    main()
