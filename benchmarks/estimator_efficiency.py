"""How much of the truth a continued token buys: targeted rollouts against exact values.

The bundled student is written out as a table of all its likely responses (see
`exact_language`), once per question. From then on nothing is a neural network: spines,
continuations and exact values all come from the table, so that fifty seeds of every variant take
minutes. Spines are drawn once; what varies between seeds is every continuation (and every
choice of nodes, in the two-phase variant). The truth is the alignment of all positions of all
spines with exact V_j.

Variants, each adding one part to the one before:
  uniform      every node by itself, the same number of continuations for every candidate
  shared       nodes with equal prefixes are one
  reuse        a continuation counts at every later node that it passes
  backup       values are backed up through the tree
  neyman       pilot, then a main round where noise is left
and, beside them,
  neyman-reuse  as neyman, without backing up
  two-phase    a pilot of 2 at every node chooses half of the nodes, which are measured afresh

Run: python benchmarks/estimator_efficiency.py --output-dir results
Writes estimator_efficiency.json, .txt (the printed table) and a plot (.png with matplotlib, else
.html with plotly).
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from common import argument_parser, environment, write_json
from efficiency_report import Record, plot, table
from exact_language import (
    Leaves,
    Network,
    Prefix,
    grow,
    leaves_of,
    problems,
    sample_spine,
)
from two_phase import second_phase

from gradalign.alignment import balanced, cosine, mean_alignment, pooled
from gradalign.alignment.ideal import ideal_gradient, noise_trace
from gradalign.branching import (
    BranchRequest,
    NodePlan,
    QuestionBranching,
    choose_candidates,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Question:
    """One question: its table, its nodes (every position of every spine) and the truth."""

    leaves: Leaves
    prefix: dict[bytes, Prefix]
    spines: list[npt.NDArray[np.int32]]
    plans: list[NodePlan]
    value: list[Floats]
    method: dict[str, list[Floats]]


def build(count: int, num_spines: int, min_mass: float, seed: int) -> tuple[list[Question], int]:
    """Write out the student on `count` questions."""
    student = Network("student")
    teachers = {name: Network(name) for name in ("strong", "weak")}
    stop = student.tokenizer.eos_token_id
    rng = np.random.default_rng(seed)
    questions = []
    for problem in problems(count, seed):
        prompt = student.prompt_ids(problem.prompt)
        spines = [sample_spine(student, prompt, rng) for _ in range(num_spines)]
        root, _ = grow(student, problem, spines, min_mass=min_mass)
        question = Question(leaves_of(root), {}, spines, [], [], defaultdict(list))
        for number, spine in enumerate(spines):
            q_TV = {name: net.along(prompt, spine) for name, net in teachers.items()}
            _add_spine(question, number, root, q_TV)
        questions.append(question)
    return questions, stop


def _add_spine(question: Question, number: int, root: Prefix, q_TV: dict[str, Floats]) -> None:
    spine, here = question.spines[number], root
    for position, token in enumerate(spine.tolist()):
        top = {name: np.argsort(-q[position])[:3] for name, q in q_TV.items()}
        chosen = choose_candidates(here.tokens, here.prob, token, top)
        slots = [here.tokens.index(c) for c in chosen.token_ids_C.tolist()]
        tilde = chosen.prob_C / chosen.prob_C.sum()
        for name, q in q_TV.items():
            q_S = q[position][here.tokens]
            ratio = np.log(q_S / here.prob)
            directions = {
                "reverse": here.prob * (ratio - here.prob @ ratio),
                "forward": q_S - here.prob * q_S.sum(),
            }
            for kind, full in directions.items():
                part = full[slots]
                restricted = (part - tilde * part.sum()) / chosen.prob_C.sum()
                question.method[f"{name} {kind}"].append(restricted)
        for candidate in chosen.token_ids_C.tolist():
            key = np.append(spine[:position], np.int32(candidate)).tobytes()
            question.prefix[key] = here.child(candidate)
        question.plans.append(NodePlan(number, position, 1.0, chosen.token_ids_C, chosen.prob_C))
        question.value.append(np.array([here.child(c).value for c in chosen.token_ids_C.tolist()]))
        here = here.child(token)


@dataclass(frozen=True, eq=False)
class Measured:
    """Values and variances of some nodes, their weights, and the tokens they took."""

    nodes: list[int]
    weight: Floats
    value: list[Floats]
    var: list[Floats]
    tokens: int


def rollout(
    question: Question, nodes: list[int], stop: int, rng: np.random.Generator, **options: object
) -> Measured:
    """Run the targeted rollouts of some of a question's nodes on its table."""
    plans = [question.plans[n] for n in nodes]
    branching = QuestionBranching(question.spines, plans, stop_ids={stop}, **options)  # type: ignore[arg-type]
    tokens = 0
    while not branching.done:
        groups: dict[bytes, list[BranchRequest]] = defaultdict(list)
        for request in branching.next_requests():
            groups[branching.prefix(request).tobytes()].append(request)
        for key, requests in groups.items():
            drawn = question.leaves.sample(question.prefix[key], len(requests), rng)
            for request, (token_ids, reward) in zip(requests, drawn, strict=True):
                tokens += len(token_ids)
                branching.observe(request, token_ids, reward)
    table = branching.estimates()
    width = [len(plan.token_ids_C) for plan in plans]
    value = np.where(table.mask_NC, table.value_NC, 0.0)
    var = np.where(table.mask_NC, table.var_NC, 0.0)
    return Measured(
        nodes,
        1.0 / table.inclusion_prob_N,
        [value[n, :w] for n, w in enumerate(width)],
        [var[n, :w] for n, w in enumerate(width)],
        tokens,
    )


def separately(question: Question, size: int, stop: int, rng: np.random.Generator) -> Measured:
    """Every branch of every node by itself: means and sample variances of `size` rewards."""
    values, variances, tokens = [], [], 0
    for plan, exact in zip(question.plans, question.value, strict=True):
        value, var = exact.copy(), np.zeros_like(exact)
        for slot, candidate in enumerate(plan.token_ids_C.tolist()):
            if candidate == stop:
                continue
            head = question.spines[plan.spine][: plan.position]
            key = np.append(head, np.int32(candidate)).tobytes()
            drawn = question.leaves.sample(question.prefix[key], size, rng)
            rewards = np.array([reward for _, reward in drawn])
            tokens += sum(len(token_ids) for token_ids, _ in drawn)
            value[slot], var[slot] = rewards.mean(), rewards.var(ddof=1) / size
        values.append(value)
        variances.append(var)
    nodes = list(range(len(question.plans)))
    return Measured(nodes, np.ones(len(nodes)), values, variances, tokens)


def measure(
    question: Question, variant: str, size: float, stop: int, rng: np.random.Generator
) -> Measured:
    """Measure a question's nodes by one of the variants; `size` continuations per branch."""
    everything = list(range(len(question.plans)))
    if variant == "uniform":
        return separately(question, int(size), stop, rng)
    if variant in ("shared", "reuse", "backup"):
        return rollout(
            question, everything, stop, rng, allocation="uniform", per_candidate=int(size),
            reuse=variant != "shared", backup=variant == "backup",
        )  # fmt: skip
    branches = sum(len(plan.token_ids_C) for plan in question.plans if len(plan.token_ids_C) > 1)
    budget = int(size * branches)
    if variant in ("neyman", "neyman-reuse"):
        return rollout(
            question, everything, stop, rng, allocation="neyman", budget=budget,
            backup=variant == "neyman",
        )  # fmt: skip
    pilot = rollout(question, everything, stop, rng, allocation="neyman", budget=0)
    norm2 = [
        (ideal_gradient(question.plans[n].prob_C, pilot.value[n]) ** 2).sum() for n in everything
    ]
    choice = [n for n in everything if len(question.plans[n].token_ids_C) > 1]
    picked, prob = second_phase([norm2[n] for n in choice], max(1, len(choice) // 2), rng)
    nodes = [choice[i] for i in picked.tolist()]
    main = rollout(question, nodes, stop, rng, allocation="neyman", budget=budget)
    return Measured(nodes, 1.0 / prob, main.value, main.var, pilot.tokens + main.tokens)


def score(questions: list[Question], measured: list[Measured]) -> dict[str, dict[str, float]]:
    """Every measure of every method."""
    results: dict[str, dict[str, float]] = {}
    for name in questions[0].method:
        rows, cosines, weights = [], [], []
        for question, item in zip(questions, measured, strict=True):
            for n, weight, value, var in zip(
                item.nodes, item.weight, item.value, item.var, strict=True
            ):
                p, m = question.plans[n].prob_C, question.method[name][n]
                if len(p) < 2:
                    continue
                g = ideal_gradient(p, value)
                rows.append([g @ m, g @ g - float(noise_trace(p, var)), m @ m])
                cosines.append(float(cosine(g, m).value_N))
                weights.append(weight)
        columns, weight = np.array(rows).T, np.array(weights)
        results[name] = {
            "pooled": pooled(*columns, weight),
            "mean": mean_alignment(cosines, weight),
            "balanced": balanced(*columns, weight),
        }
    return results


def simulate(
    questions: list[Question], stop: int, sizes: dict[str, list[float]], seeds: int
) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """Error of every variant and size, over seeds."""
    truth = score(
        questions,
        [
            Measured(list(range(len(q.plans))), np.ones(len(q.plans)), q.value,
                     [np.zeros_like(v) for v in q.value], 0)
            for q in questions
        ],
    )  # fmt: skip
    records: list[Record] = []
    for variant, options in sizes.items():
        for size in options:
            tokens, errors = [], defaultdict(list)
            for seed in range(seeds):
                rng = np.random.default_rng([seed, round(size * 1000)])
                measured = [measure(q, variant, size, stop, rng) for q in questions]
                tokens.append(sum(item.tokens for item in measured))
                for name, values in score(questions, measured).items():
                    for kind, value in values.items():
                        errors[name, kind].append(value - truth[name][kind])
            for (name, kind), differences in errors.items():
                error = np.array(differences)
                rmse, bias = float(np.sqrt((error**2).mean())), float(error.mean())
                records.append(
                    Record(variant, size, name, kind, float(np.mean(tokens)), rmse, bias, seeds)
                )
            print(f"{variant} {size:g}: {np.mean(tokens):,.0f} tokens", flush=True)
    return records, truth


def main() -> None:
    """Build the tables, simulate, and write the results."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--spines", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--min-mass", type=float, default=1e-4)
    parser.add_argument("--output-dir", type=Path, default=Path("."))
    arguments = parser.parse_args()
    started = time.perf_counter()
    questions, stop = build(
        arguments.questions, arguments.spines, arguments.min_mass, arguments.seed
    )
    nodes = sum(len(q.plans) for q in questions)
    branches = sum(len(plan.token_ids_C) for q in questions for plan in q.plans)
    head = (
        f"{arguments.questions} questions, {arguments.spines} spines each, {nodes} nodes, "
        f"{branches} branches, {arguments.seeds} seeds"
    )
    print(f"{head}; tables took {time.perf_counter() - started:.0f} s", flush=True)
    sizes = {
        "uniform": [2, 4, 8],
        "shared": [4, 16],
        "reuse": [4, 16],
        "backup": [2, 4, 8, 16],
        "neyman": [2.5, 5, 10],
        "neyman-reuse": [5, 10],
        "two-phase": [5, 10],
    }
    records, truth = simulate(questions, stop, sizes, arguments.seeds)
    text = f"{head}\n{table(records, sizes)}"
    print(text)
    folder = arguments.output_dir
    record = {
        "settings": {k: v for k, v in vars(arguments).items() if k != "output_dir"},
        **environment(),
        "seconds": time.perf_counter() - started,
        "nodes": nodes,
        "branches": branches,
        "truth": truth,
        "records": [asdict(record) for record in records],
    }
    write_json(folder / "estimator_efficiency.json", record)
    (folder / "estimator_efficiency.txt").write_text(text + "\n")
    print(f"plot: {plot(records, folder)}")


if __name__ == "__main__":
    main()
