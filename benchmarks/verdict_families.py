"""A verdict's families of comparisons: false winners, further arms, and power.

Directions at random have no alignment with anything. The bundled student is written out as exact
tables (`exact_language`), the `random` method points somewhere at every position of its responses,
and every arm's exact per-question sums are shifted so that its pooled alignment over the pool is 0.
Replicas draw questions with replacement and judge 3, 5, 9 or 15 such arms as teachers, and as
methods of one teacher. Then controls are added, and no other answer may change.

For power, one arm is lifted and compared with the others: 15 pairs of 6 arms, 31 arms against it.
Beside the step-down of the largest t stands Holm's correction, of Student's p-values and of those
that the same resamples give each pair alone; and how often each calls two equal arms different.

    python benchmarks/verdict_families.py --out benchmarks/results/verdict_families.json

Axes: _A arms, _Q questions, _X pairs, _Y sums.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
import interval_coverage
from common import argument_parser, environment, write_json
from exact_language import Network
from scipy.special import stdtr

from gradalign.alignment import pooled_of_sums
from gradalign.alignment.families import compare_pairs
from gradalign.alignment.fieller import pooled_influence, pooled_parts
from gradalign.alignment.findings import pooled_finding
from gradalign.alignment.ideal import ideal_gradient
from gradalign.estimates import Arm, Estimate
from gradalign.report.significance import holm
from gradalign.report.verdict.bases import Contrast
from gradalign.report.verdict.families import judge

Floats = npt.NDArray[np.float64]

NUMBERS = (3, 5, 9, 15)
SIZES = (24, 100)
CONTROLS = (1, 5, 20)
LIFTED = {24: (0.5, 0.8), 100: (0.25, 0.35)}
"""By questions: pooled alignment of the arm that is ahead, in the studies of power."""
FAMILIES = {
    "15 pairs of 6 arms": tuple(itertools.combinations(range(6), 2)),
    "31 arms against one": tuple((0, other) for other in range(1, 32)),
}


@dataclass(frozen=True, eq=False)
class Sums:
    """A basis of per-question sums: pooled alignment of arms that have every position."""

    of: Mapping[Arm, Floats]
    name: str = "pooled"
    words: str = "pooled alignment"
    ranks: tuple[float, float] = (0.0, 0.0)
    tells_told: bool = True

    def estimate(self, arm: Arm, level: float) -> Estimate:
        """See Basis."""
        return pooled_finding(self.of[arm], level=level)

    def contrast(self, first: Sequence[Arm], second: Sequence[Arm] = ()) -> Contrast:
        """See Basis."""
        value, influence_Q = 0.0, np.zeros(len(next(iter(self.of.values()))))
        for arms, sign in ((first, 1.0), (second, -1.0)):
            for arm in arms:
                value += sign * float(pooled_of_sums(self.of[arm].sum(axis=0))) / len(arms)
                influence_Q = influence_Q + sign * pooled_influence(self.of[arm]) / len(arms)
        return Contrast(value, influence_Q, 0)


def pool(questions: int, arms: int) -> Floats:
    """Return exact per-question sums of random directions without alignment, [A, Q, Y]."""
    interval_coverage.ARMS = tuple((f"random:seed={seed}", "strong") for seed in range(arms))
    nets = {name: Network(name) for name in ("student", "strong", "weak")}
    sums = []
    for index in range(questions):
        positions, *_ = interval_coverage.positions_of(nets, index)
        ideal = [ideal_gradient(p.prob_C, p.value_C) for p in positions]
        norm2 = [float(g_C @ g_C) for g_C in ideal]
        sums.append(interval_coverage.summed(positions, ideal, norm2, np.ones(len(positions)))[0])
    sums_AQY = np.stack(sums, axis=1)
    for sums_QY in sums_AQY:
        dot_Q, length_Q = pooled_parts(sums_QY)
        sums_QY[:, 0] -= dot_Q.sum() / length_Q.sum() * length_Q
    return sums_AQY


def false_winners(sums_AQY: Floats, number: int, size: int, seeds: int) -> dict[str, float]:
    """Return the share of replicas, in per cent, in which some difference is claimed."""
    named = teachers = methods = 0
    for seed in range(seeds):
        rng = np.random.default_rng([number, size, seed])
        at_Q = rng.integers(0, sums_AQY.shape[1], size)
        arms_A = rng.choice(len(sums_AQY), number, replace=False)
        rows = [sums_AQY[a][at_Q] for a in arms_A]
        by_teacher = {Arm(f"t{i}", "m"): own for i, own in enumerate(rows)}
        found = judge([Sums(by_teacher)], list(by_teacher))
        named += found.verdict in ("winner", "leading")
        lead = found.teachers[0].teacher if found.teachers else ""
        teachers += any(p.significant(0.95) for p in found.teacher_pairs if p.first == lead)
        by_method = {Arm("t", f"m{i}"): own for i, own in enumerate(rows)}
        found = judge([Sums(by_method)], list(by_method))
        methods += bool(found.methods) and len(found.equals(0.95)) < len(found.methods)
    return {
        "winner_named": 100 * named / seeds,
        "a_teacher_surely_worse": 100 * teachers / seeds,
        "a_method_surely_worse": 100 * methods / seeds,
    }


def changed_by_controls(sums_AQY: Floats, size: int, seeds: int) -> dict[str, int]:
    """Return how many judgements of three teachers change another answer, by controls added."""
    changed = dict.fromkeys(map(str, CONTROLS), 0)
    for seed in range(seeds):
        rng = np.random.default_rng([size, seed])
        at_Q = rng.integers(0, sums_AQY.shape[1], size)
        arms = {Arm(f"t{i}", m): _aligned(sums_AQY[2 * i + j][at_Q], 0.2 * i)
                for i in range(3) for j, m in enumerate(("m", "n"))}  # fmt: skip
        plain = judge([Sums(arms)], list(arms))
        for count in CONTROLS:
            more = {
                Arm("", f"random:seed={k}"): sums_AQY[k % len(sums_AQY)][at_Q] for k in range(count)
            }
            found = judge([Sums(arms | more)], [*arms, *more])
            changed[str(count)] += found != plain
    return changed


def power(sums_AQY: Floats, family: str, size: int, ahead: float, seeds: int) -> dict[str, Any]:
    """Return in per cent how often a pair that differs is found, and an equal one is called so."""
    pairs = np.array(FAMILIES[family])
    first_X, second_X = pairs.T
    differs_X = first_X == 0
    found = {name: np.zeros(2) for name in ("largest_t", "holm_student", "holm_resampled")}
    for seed in range(seeds):
        rng = np.random.default_rng([size, len(pairs), seed])
        at_Q = rng.integers(0, sums_AQY.shape[1], size)
        arms_A = rng.choice(len(sums_AQY), int(pairs.max()) + 1, replace=False)
        rows = [_aligned(sums_AQY[a], ahead * (k == 0))[at_Q] for k, a in enumerate(arms_A)]
        value_A = np.array([float(pooled_of_sums(own.sum(axis=0))) for own in rows])
        psi_QA = np.stack([pooled_influence(own) for own in rows], axis=1)
        difference_X = value_A[first_X] - value_A[second_X]
        psi_QX = psi_QA[:, first_X] - psi_QA[:, second_X]
        se_X = np.sqrt(size / (size - 1) * (psi_QX**2).sum(axis=0))
        student_X = 2.0 * stdtr(size - 1, -np.abs(difference_X) / se_X)
        p_values = {
            "largest_t": [test.p_value for test in compare_pairs(difference_X, psi_QX)],
            "holm_student": holm(student_X),
            "holm_resampled": holm(np.maximum(student_X, alone(difference_X, se_X, psi_QX))),
        }
        for name, p_X in p_values.items():
            said_X = np.asarray(p_X) < 0.05
            found[name] += [said_X[differs_X].mean(), said_X[~differs_X].any()]
    return {
        "ahead": ahead,
        **{
            name: dict(zip(("power", "false"), (100 * both / seeds).tolist(), strict=True))
            for name, both in found.items()
        },
    }


def alone(difference_X: Floats, se_X: Floats, psi_QX: Floats) -> Floats:
    """Return each pair's p-value by the studentised resamples of itself alone, [X]."""
    copies = [compare_pairs([d, d], np.stack([psi_Q, psi_Q], axis=1))[0].p_value
              for d, psi_Q in zip(difference_X, psi_QX.T, strict=True)]  # fmt: skip
    return np.array(copies)


def _aligned(sums_QY: Floats, value: float) -> Floats:
    """Return sums whose pooled alignment in the pool is this value."""
    out = sums_QY.copy()
    out[:, 0] += value * pooled_parts(sums_QY)[1]
    return out


def main() -> None:
    """Measure and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=60, help="of the pool")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--power-seeds", type=int, default=300)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    sums_AQY = pool(args.questions, 33)
    results: dict[str, Any] = {"false": {}, "changed_by_controls": {}, "power": {}}
    for family in FAMILIES:
        for size, lifted in LIFTED.items():
            rows = [power(sums_AQY, family, size, ahead, args.power_seeds) for ahead in lifted]
            results["power"].setdefault(family, {})[str(size)] = rows
            print(family, size, rows, flush=True)
    for size in SIZES:
        for number in NUMBERS:
            found = false_winners(sums_AQY, number, size, args.seeds)
            results["false"].setdefault(str(size), {})[str(number)] = found
            print(size, number, found, flush=True)
        results["changed_by_controls"][str(size)] = changed_by_controls(sums_AQY, size, 50)
        print(size, results["changed_by_controls"][str(size)], flush=True)
    seconds = time.perf_counter() - begin
    if args.out:
        write_json(args.out, {"environment": environment(), "seconds": seconds, **results})


if __name__ == "__main__":
    main()
