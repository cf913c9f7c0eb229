"""Does the verdict name the teacher that training gains most from?

Two finished runs of the validity benchmark's pairs (`--alignment weights`) are judged on many
random sets of their questions, and every verdict is held against the gains of real trainings in
benchmarks/results/predictive_validity.json:

- right: the leader's teacher gained at most 0.02 less than the best, or no winner was named;
- decided: where the best teacher gained more than 0.05, and three standard errors, above the
  second, a winner was named.

    python benchmarks/verdict_study.py --run addition=DIR --run counting=DIR

A teacher's gain is the mean over the methods that all have. Sets are drawn without replacement:
products of a question's update with itself would share their noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, write_json

import gradalign
from gradalign.alignment.weights import UpdateGrams, update_estimate
from gradalign.analysis.align import question_ids
from gradalign.analysis.weights import weight_grams
from gradalign.estimates import Arm, Estimate
from gradalign.report.node_scores import NodeScores, read_scores
from gradalign.report.verdict.bases import GAINS, Basis, Gain, Pooled
from gradalign.report.verdict.families import judge
from gradalign.report.verdict.recommendation import Judgement, role_of
from gradalign.stages.base import Resolved, Run

RESULTS = Path(__file__).parent / "results"
WITHIN = 0.02
APART, ERRORS = 0.05, 3.0


class Pair:
    """One pair of tasks and models: a scored run, and what trainings gained.

    Args:
        name: as in the results of the validity benchmark.
        folder: the run.
    """

    def __init__(self, name: str, folder: Path) -> None:
        report = gradalign.read_report(str(folder))
        run = Run(
            report.config.model_copy(update={"output_dir": str(folder)}),
            Resolved(**report.metadata["resolved"]),
        )
        self.name = name
        self.scores = read_scores(report)
        self.grams = {arm: grams for arm, grams, _ in weight_grams(run)}
        self.order = {question: index for index, question in enumerate(question_ids(run))}
        trained = json.loads((RESULTS / "predictive_validity.json").read_text())["pairs"]
        (own,) = [item for item in trained if item["pair"] == name]
        of = {(_short(c["teacher"]), c["method"]): c for c in own["configurations"]}
        self.trained = {
            arm: of[_short(arm.teacher), arm.method]
            for arm in self.scores.arms
            if (_short(arm.teacher), arm.method) in of
        }

    def bases(self, questions: Sequence[int]) -> list[Basis]:
        """Return what the arms with a training are ranked by on a set of questions."""
        scores = _of_questions(self.scores, questions)
        rows = [self.order[self.scores.questions[index]] for index in questions]
        found: list[Basis] = []
        for _, name, _, words, ranks in GAINS:
            estimates, influences = {}, {}
            for arm in self.trained:
                estimate = update_estimate(_of_rows(self.grams[arm], rows), step=1)
                gain = estimate.gain
                if math.isfinite(gain.value) and gain.bounded:
                    estimates[arm] = Estimate(gain.value, gain.low, gain.high)
                    influences[arm] = estimate.influence_Q
            found.append(Gain(estimates, influences, name, words, ranks))
        return [*found, Pooled(scores)]

    def gain(self, teacher: str, methods: Sequence[str]) -> tuple[float, float]:
        """Return a teacher's mean gain in training over methods, and its standard error."""
        own = [self.trained[Arm(teacher, method)] for method in methods]
        mean = float(np.mean([item["gain"] for item in own]))
        return mean, math.sqrt(sum(item["gain_se"] ** 2 for item in own)) / len(own)


def _short(teacher: str) -> str:
    return teacher.rsplit("/", 1)[-1].removeprefix("demo:")


def _of_questions(scores: NodeScores, questions: Sequence[int]) -> NodeScores:
    """Keep the nodes of some questions."""
    keep_N = np.isin(scores.question_N, questions)
    place = {index: new for new, index in enumerate(questions)}
    changed: dict[str, Any] = {
        name: getattr(scores, name)[keep_N]
        for name in (
            "node_id_N",
            "weight_N",
            "correct_N",
            "relative_position_N",
            "entropy_N",
        )
    }
    changed |= {
        name: getattr(scores, name)[:, keep_N]
        for name in ("dot_AN", "ideal_norm2_AN", "method_norm2_AN")
    }
    numbers_N = np.array([place[index] for index in scores.question_N[keep_N].tolist()])
    return replace(
        scores,
        questions=tuple(scores.questions[index] for index in questions),
        question_N=numbers_N,
        **changed,
    )


def _of_rows(grams: UpdateGrams, rows: Sequence[int]) -> UpdateGrams:
    at = np.ix_(rows, rows)
    return UpdateGrams(
        grams.cross_QQ[at], grams.ideal_QQ[at], grams.method_QQ[at], grams.own_Q[list(rows)]
    )


def families(pair: Pair) -> Iterator[tuple[list[str], list[str]]]:
    """Yield sets of two or more candidate teachers, with the methods that all of them have."""
    candidates = [arm for arm in pair.trained if role_of(arm) == "candidate"]
    teachers = list(dict.fromkeys(arm.teacher for arm in candidates))
    for size in range(2, len(teachers) + 1):
        for some in itertools.combinations(teachers, size):
            sets = [{arm.method for arm in candidates if arm.teacher == name} for name in some]
            yield list(some), sorted(set.intersection(*sets))


def judged(pair: Pair, bases: list[Basis], teachers: Sequence[str]) -> Judgement:
    """Judge some of the teachers, with the run's controls and references beside them."""
    arms = [arm for arm in pair.trained if role_of(arm) != "candidate" or arm.teacher in teachers]
    return judge(bases, arms)


def study(pair: Pair, sets: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Judge every set of teachers on random sets of questions."""
    rng = np.random.default_rng(0)
    rows = []
    for size in sizes:
        drawn = [
            sorted(rng.choice(len(pair.scores.questions), size, replace=False).tolist())
            for _ in range(sets)
        ]
        found: dict[tuple[str, ...], dict[str, list[Judgement]]] = {}
        for questions in drawn:
            both = pair.bases(questions)
            for place, basis in enumerate(both):
                name, bases = basis.name, both[place:]
                for teachers, _ in families(pair):
                    of = found.setdefault(tuple(teachers), {})
                    of.setdefault(name, []).append(judged(pair, bases, teachers))
        for teachers, methods in families(pair):
            gains = {name: pair.gain(name, methods) for name in teachers}
            order = sorted(gains, key=lambda name: -gains[name][0])
            gap = gains[order[0]][0] - gains[order[1]][0]
            error = math.hypot(gains[order[0]][1], gains[order[1]][1])
            for name, results in found[tuple(teachers)].items():
                named = [r for r in results if r.verdict in ("winner", "leading")]
                wrong = [
                    r
                    for r in named
                    if r.leader is not None
                    and gains[order[0]][0] - gains[r.leader.teacher][0] > WITHIN
                ]
                rows.append(
                    {
                        "questions": size,
                        "basis": name,
                        "teachers": [_short(teacher) for teacher in teachers],
                        "gap": gap,
                        "apart": gap > APART and gap > ERRORS * error and gains[order[0]][0] > 0,
                        "named": len(named) / sets,
                        "right": 1 - len(wrong) / sets,
                    }
                )
    return {"pair": pair.name, "sets": sets, "rows": rows}


def main() -> None:
    """Judge, print and write benchmarks/results/verdict.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="append", required=True, help="PAIR=FOLDER, repeatable")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--questions", type=int, action="append")
    parser.add_argument("--output", type=Path, default=RESULTS / "verdict.json")
    options = parser.parse_args()
    found = []
    for item in options.run:
        name, _, folder = item.partition("=")
        pair = Pair(name, Path(folder))
        found.append(study(pair, options.sets, options.questions or [24, 64, 96]))
        for row in found[-1]["rows"]:
            print(
                f"{row['questions']:4} {row['basis']:16} right {row['right']:.3f} named "
                f"{row['named']:.3f} {'APART' if row['apart'] else '     '} gap {row['gap']:+.3f} "
                f"{' '.join(row['teachers'])}"
            )
    write_json(options.output, {"environment": environment(), "pairs": found})


if __name__ == "__main__":
    main()
