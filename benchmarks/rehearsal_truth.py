"""Rehearsed success against the truth, and the coverage of its intervals.

The bundled student is moved as arms would move it in 3 to 24 steps, by questions that are used for
nothing else. Then its exact success on other questions is summed up: every likely response of the
moved student is written down (`exact_language`). `gradalign.score` is run several times on these
questions with other seeds, and every run says from its own responses, nodes and rollouts what the
moved student gains. A replica draws questions with replacement, each time it comes up with another
run's; its interval is held against the exact change of success.

    python benchmarks/rehearsal_truth.py --out benchmarks/results/rehearsal_truth.json
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import OUT, argument_parser, environment, write_json
from exact_language import Network, context_prompt, grow, problems
from weights_truth import replica

import gradalign
from gradalign.demo.addition import Problem
from gradalign.estimates import Arm
from gradalign.rehearsal.curves import mean_of, why_not_trusted
from gradalign.rehearsal.moved import moved
from gradalign.rehearsal.stages import LEAPS, Trainings
from gradalign.rehearsal.trials import chosen_length, effective_share
from gradalign.rehearsal.virtual import VirtualStudent
from gradalign.stages.base import Resolved, Run
from gradalign.stages.weights.gradients import open_space

Floats = npt.NDArray[np.float64]

SEED, OWN_SEED = 91, 92
ARMS = (
    Arm("demo:strong", "gkd:beta=0"),
    Arm("demo:strong", "opd"),
    Arm("demo:weak", "opd"),
    Arm("self+answer", "gkd:beta=0"),
    Arm("self+wrong-answer", "opd"),
    Arm("", "dr_grpo"),
)
STEPS = (3, 6, 12, 24)
SIZES = (20, 40, 100)
MIN_MASS = 5e-5
"""Least probability of a prefix of the exact language."""

RUN = {
    "student": "demo:student",
    "teachers": ["demo:strong", "demo:weak", "self+answer", "self+wrong-answer"],
    "methods": ["gkd:beta=0", "opd", "dr_grpo"],
    "verifier": "demo:addition",
    "num_rollouts": 2,
    "nodes": 12,
    "continuations": 6,
    "diagnose": ["none"],
    "control": False,
    "engine": "transformers",
    "device": "cpu",
    "bootstrap_resamples": 100,
    "display": "none",
}


def task_of(folder: Path, name: str, problem_list: Sequence[Problem]) -> Path:
    """Write problems as a questions file, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"q{index}",
            "prompt": problem.prompt,
            "answer": problem.answer,
            "contexts": {
                name: context_prompt(problem, name) for name in ("answer", "wrong-answer")
            },
        }
        for index, problem in enumerate(problem_list)
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(report: gradalign.Report) -> Run:
    """Return the run of a report."""
    return Run(report.config, Resolved(**report.metadata["resolved"]))


def displacements(
    folder: Path, count: int, kl: float
) -> Iterator[tuple[Arm, int, list[torch.Tensor]]]:
    """Yield where every arm has moved the student after some steps, by questions of its own."""
    report = gradalign.score(
        **{**RUN, "num_rollouts": 4},
        task=str(task_of(folder, "own", problems(count, OWN_SEED))),
        seed=1,
        rehearse=True,
        rehearse_step=f"kl={kl}",
        rehearse_steps=list(STEPS),
        rehearse_responses=8,
        output_dir=str(folder / f"own-{kl}"),
    )
    run = run_of(report)
    length = chosen_length(run)
    with open_space(run) as (model, parameters):
        student = VirtualStudent(run, model, parameters)
        trainings = Trainings(run, student)
        for arm in ARMS:
            yield from (
                (arm, steps, place)
                for steps, place in trainings.path(arm, student.questions, length)
            )


def exact_success(
    student: Network, where: Sequence[torch.Tensor] | None, problem_list: Sequence[Problem]
) -> Floats:
    """Return the moved student's exact success on every question."""
    with moved(list(student.model.parameters()), where):
        return np.array(
            [grow(student, problem, [], min_mass=MIN_MASS)[0].value for problem in problem_list]
        )


def main() -> None:
    """Measure and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=80, help="of the pool")
    parser.add_argument("--own", type=int, default=64, help="questions that move the student")
    parser.add_argument("--draws", type=int, default=7, help="runs on the same questions")
    parser.add_argument("--replicas", type=int, default=500)
    parser.add_argument("--kl", type=float, default=0.001, help="of a step")
    parser.add_argument("--work-dir", type=Path, default=OUT / "rehearsal_truth")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    problem_list = problems(args.questions, SEED)
    task = task_of(args.work_dir, "pool", problem_list)
    places = list(displacements(args.work_dir, args.own, args.kl))
    student = Network("student")
    before_Q = exact_success(student, None, problem_list)
    truth = []
    for arm, steps, place in places:
        after_Q = exact_success(student, place, problem_list)
        truth.append(after_Q - before_Q)
        print(arm, steps, f"{truth[-1].mean():+.4f}", flush=True)
    found = [
        readings(args.work_dir, task, seed, [place for _, _, place in places], args.questions)
        for seed in range(args.draws)
    ]
    rows = [
        row_of(arm, steps, gain_Q, before_Q, [draw[number] for draw in found], args.replicas)
        for number, ((arm, steps, _), gain_Q) in enumerate(zip(places, truth, strict=True))
    ]
    for row in rows:
        print(row, flush=True)
    if args.out:
        write_json(
            args.out,
            {
                "environment": environment(),
                "seconds": time.perf_counter() - begin,
                "settings": {
                    "questions": args.questions,
                    "own": args.own,
                    "draws": args.draws,
                    "replicas": args.replicas,
                    "kl": args.kl,
                    "leaps": LEAPS,
                },
                "rows": rows,
            },
        )


def readings(
    folder: Path, task: Path, seed: int, places: Sequence[list[torch.Tensor]], count: int
) -> list[dict[str, Any]]:
    """Return what one run says of every moved student: arrays over questions."""
    report = gradalign.score(
        **RUN, task=str(task), seed=seed, output_dir=str(folder / f"run{seed}")
    )
    spines = report.spines.groupby("question_id")["reward"].mean()
    names = [f"q{index}" for index in range(count)]
    run, made = run_of(report), []
    with open_space(run) as (model, parameters):
        student = VirtualStudent(run, model, parameters)
        for place in places:
            own = {item.question: item for item in student.gains(student.questions, place)}
            items = [own[name] for name in names]
            made.append(
                {
                    "gain": np.array([item.gain for item in items]),
                    "before": spines.reindex(names).to_numpy(),
                    "outside": float(np.mean([item.outside for item in items])),
                    "effective": effective_share(np.concatenate([item.ratios for item in items])),
                    "divergence": float(np.mean([item.divergence for item in items])),
                }
            )
    print("run", seed, flush=True)
    return made


def row_of(
    arm: Arm,
    steps: int,
    truth_Q: Floats,
    before_Q: Floats,
    draws: Sequence[dict[str, Any]],
    replicas: int,
) -> dict[str, Any]:
    """Return bias and coverage of one arm after some steps."""
    gain_DQ = np.stack([draw["gain"] for draw in draws])
    after_DQ = gain_DQ + np.stack([draw["before"] for draw in draws])
    count = gain_DQ.shape[1]
    effective = float(np.mean([draw["effective"] for draw in draws]))
    outside = float(np.mean([draw["outside"] for draw in draws]))
    # Of the mean over runs, question by question: the questions themselves are the same.
    apart_Q = gain_DQ.mean(axis=0) - truth_Q
    row: dict[str, Any] = {
        "arm": str(arm),
        "steps": steps,
        "truth": float(truth_Q.mean()),
        "rehearsed": float(gain_DQ.mean()),
        "standard_error": float(apart_Q.std(ddof=1)) / math.sqrt(count),
        "effective": effective,
        "outside": outside,
        "divergence": float(np.mean([draw["divergence"] for draw in draws])),
        "why_not_trusted": why_not_trusted(effective, outside),
    }
    rng = np.random.default_rng(SEED)
    for size in (size for size in SIZES if 3 * size <= gain_DQ.size):
        held = {"gain": 0, "success": 0}
        for _ in range(replicas):
            at = np.array(replica(rng, count, len(draws), size))
            for name, flat, true in (
                ("gain", gain_DQ.ravel(), truth_Q.mean()),
                ("success", after_DQ.ravel(), (truth_Q + before_Q).mean()),
            ):
                found = mean_of(flat[at])
                held[name] += found.low <= true <= found.high
        for name, number in held.items():
            row[f"{name}_{size}"] = 100 * number / replicas
    return row


if __name__ == "__main__":
    main()
