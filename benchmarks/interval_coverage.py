"""How often intervals of pooled alignment hold the truth, against exact values.

The bundled student is written out as exact tables (`exact_language`), and rollouts are drawn from
these through the package's own choice of nodes and allocation. The truth is exact: all positions,
exact values, all questions of the pool. A replica draws questions with replacement and gives its
per-question sums to `pooled_finding`, which is what tables, pages and verdicts print.

Two populations: as it is (clean), and with each reward turned over with a fixed chance, so that
differences between tokens shrink to `SHRUNK` of themselves (noisy), which stands for a real model.

    python benchmarks/interval_coverage.py --out benchmarks/results/interval_coverage.json

Axes: _A arms, _D draws of rollouts, _N positions, _Q questions, _X splits, _Y sums.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
from common import argument_parser, environment, write_json
from exact_language import (
    Leaves,
    Network,
    Prefix,
    context_prompt,
    grow,
    leaves_of,
    problems,
    sample_spine,
)

from gradalign import methods
from gradalign.alignment.fieller import pooled_set, with_opposite
from gradalign.alignment.findings import pooled_finding
from gradalign.alignment.ideal import ideal_gradient, unbiased_norm2
from gradalign.alignment.scores import pooled_of_sums, pooling_columns
from gradalign.branching import NodePlan, QuestionBranching, choose_candidates, choose_nodes
from gradalign.methods.batch import NodeBatch
from gradalign.store.splits import outcome_splits, position_splits

Floats = npt.NDArray[np.float64]

ARMS = (("gkd", "strong"), ("opd", "strong"), ("gkd", "weak"), ("gkd:beta=0", "self+answer"))
SPLITS = ("all", "correct", "incorrect", "position:0-25%", "position:25-50%", "position:75-100%")
SIZES = {"clean": (12, 24, 50, 100, 200), "noisy": (12, 24, 50, 100, 200)}
SHRUNK = {"clean": 1.0, "noisy": 0.3}
SPINES, NODES, CONTINUATIONS = 2, 12, 4
SEED = 77


@dataclass(eq=False)
class Position:
    """A position of a response: candidates, their exact values, and where each arm points."""

    spine: int
    at: int
    token_C: npt.NDArray[np.int64]
    prob_C: Floats
    value_C: Floats
    inside_AC: Floats
    length2_A: Floats
    entropy: float
    inside_X: npt.NDArray[np.bool_]


def positions_of(
    nets: dict[str, Network], index: int
) -> tuple[list[Position], list[npt.NDArray[np.int32]], Prefix, Leaves]:
    """Write out one question."""
    student, problem = nets["student"], problems(index + 1, SEED)[index]
    rng = np.random.default_rng([SEED, index])
    prompt = student.prompt_ids(problem.prompt)
    spines = [sample_spine(student, prompt, rng) for _ in range(SPINES)]
    root, _ = grow(student, problem, spines, min_mass=3e-4)
    answer = student.prompt_ids(context_prompt(problem, "answer"))
    out = []
    for s, spine in enumerate(spines):
        p_TV = student.along(prompt, spine)
        q = {name: net.along(prompt, spine) for name, net in nets.items() if name != "student"}
        q["self+answer"] = student.along(answer, spine)
        point_ATV = []
        with np.errstate(divide="ignore"):
            for method, teacher in ARMS:
                batch = NodeBatch.from_logits(np.log(p_TV), np.log(q[teacher]), spine)
                point_ATV.append(np.nan_to_num(methods.get(method).ascent(batch)))
        here, on_way = root, []
        for token in spine.tolist():
            on_way.append(here)
            here = here.child(token)
        correct = np.array([here.value > 0.5])
        for at, (prefix, token) in enumerate(zip(on_way, spine.tolist(), strict=True)):
            tops = {}
            for name, q_TV in q.items():
                order = np.argsort(-q_TV[at])[:8]
                mass = np.cumsum(q_TV[at][order]) - q_TV[at][order]
                tops[name] = order[mass < 0.98]
            chosen = choose_candidates(prefix.tokens, prefix.prob, token, tops)
            splits = {
                **outcome_splits(correct),
                **position_splits(np.array([at / max(len(spine) - 1, 1)])),
            }
            out.append(
                Position(
                    spine=s,
                    at=at,
                    token_C=chosen.token_ids_C,
                    prob_C=chosen.prob_C,
                    value_C=np.array([prefix.child(c).value for c in chosen.token_ids_C.tolist()]),
                    inside_AC=np.stack([m_TV[at][chosen.token_ids_C] for m_TV in point_ATV]),
                    length2_A=np.array([(m_TV[at] ** 2).sum() for m_TV in point_ATV]),
                    entropy=max(float(-(prefix.prob * np.log(prefix.prob)).sum()), 0.0),
                    inside_X=np.array([name == "all" or bool(splits[name][0]) for name in SPLITS]),
                )
            )
    return out, spines, root, leaves_of(root)


def summed(
    positions: list[Position], ideal: list[Floats], norm2: list[float], weight_N: Floats
) -> Floats:
    """Sum what pooling needs over positions, [X, A, Y]."""
    dot_AN = np.stack(
        [p.prob_C.sum() * (p.inside_AC @ g_C) for p, g_C in zip(positions, ideal, strict=True)],
        axis=1,
    )
    mass_N = np.array([p.prob_C.sum() for p in positions])
    ideal_N = mass_N**2 * np.array(norm2)
    length2_AN = np.stack([p.length2_A for p in positions], axis=1)
    inside_NX = np.stack([p.inside_X for p in positions])
    columns_ANY = np.stack(
        [
            pooling_columns(dot_N, ideal_N, length2_N, weight_N)
            for dot_N, length2_N in zip(dot_AN, length2_AN, strict=True)
        ]
    )
    return np.einsum("any,nx->xay", columns_ANY, inside_NX.astype(np.float64))


def rolled_out(
    positions: list[Position],
    spines: list[npt.NDArray[np.int32]],
    root: Prefix,
    leaves: Leaves,
    shrunk: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Choose nodes, draw continuations, and return the sums, [X, A, Y], and noise and signal."""
    chosen: list[Position] = []
    inclusion: list[float] = []
    for s in range(len(spines)):
        own = [p for p in positions if p.spine == s]
        at, prob = choose_nodes([p.entropy for p in own], NODES, "entropy", rng)
        chosen += [own[i] for i in at]
        inclusion += np.asarray(prob).tolist()
    plans = [
        NodePlan(p.spine, p.at, prob, p.token_C, p.prob_C)
        for p, prob in zip(chosen, inclusion, strict=True)
    ]
    stop = int(spines[0][-1]) if len(spines[0]) else 0
    branching = QuestionBranching(
        spines, plans, allocation="neyman", per_candidate=CONTINUATIONS, stop_ids={stop},
        max_tokens=40,
    )  # fmt: skip
    turned = (1.0 - shrunk) / 2.0
    while not branching.done:
        groups = defaultdict(list)
        for request in branching.next_requests():
            groups[branching.prefix(request).tobytes()].append(request)
        for key, requests in groups.items():
            prefix = root
            for token in np.frombuffer(key, dtype=np.int32).tolist():
                prefix = prefix.child(token)
            drawn = leaves.sample(prefix, len(requests), rng)
            for request, (ids, reward) in zip(requests, drawn, strict=True):
                if request.finished:  # known without sampling
                    seen = shrunk * reward + turned
                else:
                    seen = float((reward > 0.5) != (rng.random() < turned))
                branching.observe(request, ids, seen)
    table = branching.estimates()
    ideal, norm2, parts = [], [], np.zeros(2)
    weight_N = 1.0 / np.array(inclusion)
    for n, p in enumerate(chosen):
        mask_C = table.mask_NC[n, : len(p.token_C)]
        value_C = np.where(mask_C, table.value_NC[n, : len(p.token_C)], 0.0)
        var_C = np.where(mask_C, table.var_NC[n, : len(p.token_C)], 0.0)
        g_C = ideal_gradient(p.prob_C, value_C, mask_C)
        ideal.append(g_C)
        norm2.append(float(unbiased_norm2(p.prob_C, value_C, var_C, mask_C)))
        parts += weight_N[n] * np.array([g_C @ g_C - norm2[-1], norm2[-1]])
    return summed(chosen, ideal, norm2, weight_N), parts


def pool(
    questions: int, draws: int, nets: dict[str, Network]
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, float]]:
    """Return per population exact sums, [Q, X, A, Y], those of draws, [Q, D, X, A, Y], noise."""
    exact: dict[str, list[Floats]] = {name: [] for name in SHRUNK}
    drawn: dict[str, list[Floats]] = {name: [] for name in SHRUNK}
    noise = {name: np.zeros(2) for name in SHRUNK}
    for index in range(questions):
        positions, spines, root, leaves = positions_of(nets, index)
        for number, (name, shrunk) in enumerate(SHRUNK.items()):
            ideal = [ideal_gradient(p.prob_C, shrunk * p.value_C) for p in positions]
            norm2 = [float(g_C @ g_C) for g_C in ideal]
            exact[name].append(summed(positions, ideal, norm2, np.ones(len(positions))))
            sums = []
            for draw in range(draws):
                rng = np.random.default_rng([SEED, index, number, draw])
                found, parts = rolled_out(positions, spines, root, leaves, shrunk, rng)
                sums.append(found)
                noise[name] += parts
            drawn[name].append(np.stack(sums))
    return (
        {name: np.stack(parts) for name, parts in exact.items()},
        {name: np.stack(parts) for name, parts in drawn.items()},
        {name: float(parts[0] / parts[1]) for name, parts in noise.items()},
    )


def centred(exact_QXAY: Floats, drawn_QDXAY: Floats) -> Floats:
    """Move each question's draws so that their mean is exact, and their spread stays unbiased.

    A few draws per question miss its truth by chance. Replicas of many questions would see that
    as a bias, which it is not: `biases` says what it comes to.
    """
    draws = drawn_QDXAY.shape[1]
    out = drawn_QDXAY.copy()
    apart = drawn_QDXAY - drawn_QDXAY.mean(axis=1, keepdims=True)
    out[..., :3] = exact_QXAY[:, None, ..., :3] + np.sqrt(draws / (draws - 1)) * apart[..., :3]
    return out


def biases(exact_QXAY: Floats, drawn_QDXAY: Floats) -> dict[str, list[float]]:
    """Return each sum's mean error over all tokens in standard errors, per arm."""
    error_QAY = (drawn_QDXAY.mean(axis=1) - exact_QXAY)[:, 0]
    se_AY = error_QAY.std(axis=0, ddof=1) / np.sqrt(len(error_QAY))
    names = ("dot", "ideal_norm2", "method_norm2")
    return {
        name: (error_QAY.mean(axis=0)[:, y] / se_AY[:, y]).tolist() for y, name in enumerate(names)
    }


def coverage(exact_QXAY: Floats, drawn_QDXAY: Floats, size: int, replicas: int) -> dict[str, Any]:
    """Return per split how often the interval holds the truth, in per cent, and what is printed.

    `covered` is over all replicas, `covered_printed` over those that have a value; `plain` and
    `opposite` are those of Fieller's set without and with one more, opposite question.
    """
    seen_QDXA = drawn_QDXAY[..., 2] > 0  # whether the draw has a node in the split
    drawn_QDXAY = centred(exact_QXAY, drawn_QDXAY)
    rng = np.random.default_rng([SEED, size])
    questions, draws = drawn_QDXAY.shape[:2]
    at_RQ = rng.integers(0, questions, size=(replicas, size))
    draw_RQ = rng.integers(0, draws, size=(replicas, size))
    out: dict[str, Any] = {}
    for x, split in enumerate(SPLITS):
        rows = []
        for a in range(len(ARMS)):
            truth = float(pooled_of_sums(exact_QXAY[:, x, a].sum(axis=0)))
            held = printed = both = past = 0
            half = []
            forms = {"plain": [0, 0], "opposite": [0, 0]}
            for at_Q, draw_Q in zip(at_RQ, draw_RQ, strict=True):
                sums_QY = drawn_QDXAY[at_Q, draw_Q, x, a]
                sums_QY = sums_QY[seen_QDXA[at_Q, draw_Q, x, a]]
                found = pooled_finding(sums_QY, part=split != "all")
                inside = not (found.low > truth or found.high < truth)
                held += inside
                for name, way in (("plain", pooled_set), ("opposite", with_opposite)):
                    known = way(sums_QY)
                    if known.known:
                        forms[name][0] += 1
                        forms[name][1] += known.low <= truth <= known.high
                if found.known:
                    printed += 1
                    both += inside
                    half.append((found.high - found.low) / 2)
                    past += abs(found.value) > 1.0
            rows.append(
                {
                    "truth": truth,
                    "covered": 100.0 * held / replicas,
                    "covered_printed": 100.0 * both / printed if printed else None,
                    "printed": 100.0 * printed / replicas,
                    "half_width": float(np.mean(half)) if half else None,
                    "past_1": past,
                    **{
                        f"covered_printed_{name}": 100.0 * good / count if count else None
                        for name, (count, good) in forms.items()
                    },
                }
            )
        names = [f"{method}@{teacher}" for method, teacher in ARMS]
        out[split] = dict(zip(names, rows, strict=True))
    return out


def main() -> None:
    """Measure and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=40, help="of the pool")
    parser.add_argument("--draws", type=int, default=10, help="of rollouts, per question")
    parser.add_argument("--replicas", type=int, default=400)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    nets = {name: Network(name) for name in ("student", "strong", "weak")}
    exact, drawn, noise = pool(args.questions, args.draws, nets)
    results: dict[str, Any] = {
        "noise_over_signal": noise,
        "bias_in_standard_errors": {name: biases(exact[name], drawn[name]) for name in SIZES},
        "coverage": {},
    }
    for name, sizes in SIZES.items():
        for size in sizes:
            found = coverage(exact[name], drawn[name], size, args.replicas)
            results["coverage"].setdefault(name, {})[str(size)] = found
            for split, arms in found.items():
                mean = np.mean([row["covered"] for row in arms.values()])
                shown = [row for row in arms.values() if row["covered_printed"] is not None]
                said = np.mean([row["printed"] for row in arms.values()])
                held = [
                    np.mean([row[key] for row in shown if row[key] is not None] or [np.nan])
                    for key in (
                        "covered_printed",
                        "covered_printed_plain",
                        "covered_printed_opposite",
                    )
                ]
                worst = min((row["covered_printed"] for row in shown), default=np.nan)
                print(
                    f"{name} {size:4d} {split:18s} covered {mean:5.1f} % printed {said:5.1f} % of "
                    f"these covered {held[0]:5.1f} (worst arm {worst:5.1f}; plain {held[1]:5.1f}, "
                    f"opposite {held[2]:5.1f})"
                )
    results["seconds"] = time.perf_counter() - begin
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    if args.out is not None:
        write_json(args.out, {**environment(), "settings": settings, **results})


if __name__ == "__main__":
    main()
