"""Does a rehearsal know where it is blind? Steps ten times too long, trained and rehearsed.

Arms of the bundled pair are trained with steps ten times as long as those of the validity
benchmark, at which little is gained and much is lost, and rehearsed at that length. Each point of
a rehearsed curve either agrees with the training or is not trusted; and `auto` chooses a shorter
step.

    python benchmarks/rehearsal_limits.py --out benchmarks/results/rehearsal_limits.json
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import OUT, argument_parser, environment, write_json
from validity.pairs import ADDITION, Configuration
from validity.scoring import ScoreSettings, score
from validity.training import TrainSettings, measure, train

import gradalign
from gradalign.estimates import Arm

LENGTH = 0.0625
"""Of a step; that of the validity benchmark is a tenth of it."""

STEPS = (1, 3, 6, 12)
ARMS = (Configuration("demo:strong", "opd"), Configuration("self+answer", "opd"))


def trained(configuration: Configuration, seeds: int, prompts: int) -> list[list[float]]:
    """Return the gains after `STEPS` of every seed."""
    settings = TrainSettings(step_norm=LENGTH, checkpoints=STEPS, eval_prompts=prompts)
    found = []
    for seed in range(seeds):
        gains: list[float] = []

        def watch(step: int, model: Any, gains: list[float] = gains, seed: int = seed) -> None:
            if step in STEPS:
                gains.append(measure(ADDITION, model, settings, seed).gain)

        train(ADDITION, configuration, settings, seed, watch)
        found.append(gains)
    return found


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
    report = score(ADDITION, ScoreSettings(questions=args.questions), args.work_dir)
    report = gradalign.rehearse(
        report, steps=STEPS, step=f"length={LENGTH}", responses=8, display="none"
    )
    rows = []
    for configuration in ARMS:
        gains = trained(configuration, args.seeds, args.eval_prompts)
        points = report.curves[Arm(configuration.teacher, configuration.method)]
        for place, point in enumerate(points):
            rows.append(
                {
                    "arm": configuration.label,
                    "steps": point.steps,
                    "trained": float(np.mean([own[place] for own in gains])),
                    "seeds": [own[place] for own in gains],
                    "rehearsed": list(point.gain.span),
                    "effective": point.effective,
                    "divergence": point.divergence,
                    "why_not_trusted": point.why,
                }
            )
            print(rows[-1], flush=True)
    chosen = gradalign.rehearse(report, steps=STEPS, step="auto", display="none")
    length = float(chosen.table("rehearsals")["length"].iloc[0])
    print(f"auto: {length:.4g}", flush=True)
    if args.out:
        write_json(
            args.out,
            {
                "environment": environment(),
                "seconds": time.perf_counter() - begin,
                "settings": {
                    "length": LENGTH,
                    "questions": args.questions,
                    "eval_prompts": args.eval_prompts,
                    "seeds": args.seeds,
                },
                "auto_length": length,
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
