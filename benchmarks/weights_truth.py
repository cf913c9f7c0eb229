"""Alignment in the weights against the truth: steps that are taken, and coverage.

Steps: the bundled student's likely responses to every question are written down
(`exact_language`), so that success, its gradient G in the weights and an arm's expected update M
are sums over them. The student goes a short way along M of one half of the questions, and its
success on the other half is summed up before and after; the ratio to the way's length is held
against <G, M> / |M|.

Coverage: `gradalign.score --alignment weights` is run several times on the same questions with
other seeds. A replica draws questions with replacement, each time it comes up with another run's
responses, nodes and rollouts; its intervals of N, the cosine and the gains, of everything and of
every split, are held against their values in the whole population of questions and runs. So is
the gain of a step of AdamW on one question; of a step on a batch it is batches that are drawn.

Bias: that population's values are held against the truth, summed over `RESPONSES` responses to each
question, at every position, with exact values of the candidates that the package forces (outside
them it takes the ideal direction as 0).

    python benchmarks/weights_truth.py --out benchmarks/results/weights_truth.json

Axes: _D dimensions of the weights, _L responses, _Q questions.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import OUT, argument_parser, environment, write_json
from exact_language import Network, context_prompt, grow, leaves_of, problems, sample_spine

import gradalign
from gradalign import methods
from gradalign.alignment.fieller import RatioSet
from gradalign.alignment.ideal import ideal_gradient
from gradalign.alignment.weights import UpdateGrams, mean_of_shared, update_estimate
from gradalign.analysis.align import question_ids
from gradalign.analysis.steps import batches
from gradalign.analysis.weights import adamw_sketches, ideal_sketches, question_updates
from gradalign.branching import choose_candidates
from gradalign.demo.addition import Problem
from gradalign.estimates import Arm, Estimate
from gradalign.methods.batch import NodeBatch
from gradalign.stages.base import Resolved, Run

Floats = npt.NDArray[np.float64]

SEED = 91
ARMS = (
    Arm("demo:strong", "gkd:beta=0"),
    Arm("demo:strong", "opd"),
    Arm("self+answer", "gkd:beta=0"),
)
SIZES = (20, 50, 200)
BATCHES = {"gain_one": 1, "gain": 32}
RESPONSES = 40
"""Responses to a question that the truth is an average over."""

LENGTHS = (0.03, 0.01, 0.003)
"""Of a step, Euclidean over all weights; a step of the validity benchmark is 0.006."""

RUN = {
    "student": "demo:student",
    "teachers": ["demo:strong", "self+answer"],
    "methods": ["gkd:beta=0", "opd"],
    "verifier": "demo:addition",
    "num_rollouts": 2,
    "nodes": 8,
    "continuations": 6,
    "alignment": "weights",
    "weights_batch": 4,  # of AdamW: batches enough to draw from
    "weights_adamw": "first",
    "weights_quarters": True,
    "diagnose": ["none"],
    "control": False,
    "engine": "transformers",
    "device": "cpu",
    "bootstrap_resamples": 100,
    "display": "none",
}


@dataclass(eq=False)
class Exact:
    """One question: its likely responses, and the gradients that they add up to.

    Attributes:
        prompt_ids: of the question.
        responses: token ids of each.
        reward_L: their rewards.
        ideal_D: gradient of success.
        update_AD: every arm's expected update.
    """

    prompt_ids: list[int]
    responses: list[npt.NDArray[np.int32]]
    reward_L: Floats
    ideal_D: torch.Tensor
    update_AD: torch.Tensor


@dataclass(eq=False)
class Typical:
    """One question as the package looks at it, on average over its responses.

    Attributes:
        ideal_D: sum of J^T g over the positions of a response, g on the candidates.
        update_AD: of J^T m, for every arm.
        own_A: |E M|^2 of the question.
        within_A: variance of a single response's update.
    """

    ideal_D: torch.Tensor
    update_AD: torch.Tensor
    own_A: Floats
    within_A: Floats


def log_probs(
    model: torch.nn.Module, prompt_ids: Sequence[int], responses: Sequence[npt.NDArray[np.int32]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probabilities of all tokens, [L, T, V], the responses, [L, T], and their mask."""
    width = max(map(len, responses))
    ids_LT = torch.zeros((len(responses), width), dtype=torch.long)
    mask_LT = torch.zeros((len(responses), width))
    for row, ids in enumerate(responses):
        ids_LT[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        mask_LT[row, : len(ids)] = 1.0
    prompt_LP = torch.tensor([list(prompt_ids)]).expand(len(responses), -1)
    logits = model(input_ids=torch.cat([prompt_LP, ids_LT], dim=1)).logits
    return logits[:, len(prompt_ids) - 1 : -1].double().log_softmax(-1), ids_LT, mask_LT


def log_prob_of(
    model: torch.nn.Module, prompt_ids: Sequence[int], responses: Sequence[npt.NDArray[np.int32]]
) -> torch.Tensor:
    """Return each response's log-probability, [L]."""
    log_p, ids_LT, mask_LT = log_probs(model, prompt_ids, responses)
    return (log_p.gather(2, ids_LT[..., None])[..., 0] * mask_LT).sum(dim=1)


def exact(nets: Mapping[str, Network], problem: Problem) -> Exact:
    """Write one question's likely responses out."""
    student = nets["student"]
    prompt = student.prompt_ids(problem.prompt)
    root, _ = grow(student, problem, [], min_mass=1e-3)
    leaves = leaves_of(root)
    responses = leaves.responses
    parameters = list(student.model.parameters())
    log_L = log_prob_of(student.model, prompt, responses)
    reward_L = torch.from_numpy(leaves.reward_L)
    ideal_D = flat(torch.autograd.grad((log_L.exp() * reward_L).sum(), parameters))
    with torch.no_grad():
        prob_L = log_prob_of(student.model, prompt, responses).exp()
        prob_L = prob_L / prob_L.sum()
    log_p, _, mask_LT = log_probs(student.model, prompt, responses)
    own = log_p.detach().numpy()
    teacher = teachers_on(nets, problem, responses)
    updates = []
    for arm in ARMS:
        direction = torch.from_numpy(directions(arm, own, teacher[arm.teacher], responses))
        every = (log_p * direction * mask_LT[..., None]).sum(dim=(1, 2)) @ prob_L
        updates.append(flat(torch.autograd.grad(every, parameters, retain_graph=True)))
    return Exact(prompt, responses, leaves.reward_L, ideal_D, torch.stack(updates))


def teachers_on(
    nets: Mapping[str, Network], problem: Problem, responses: Sequence[npt.NDArray[np.int32]]
) -> dict[str, Floats]:
    """Return every teacher's log-probabilities along responses, [L, T, V]."""
    student = nets["student"]
    bare, told = (
        student.prompt_ids(text) for text in (problem.prompt, context_prompt(problem, "answer"))
    )
    with torch.no_grad():
        return {
            "demo:strong": log_probs(nets["strong"].model, bare, responses)[0].numpy(),
            "self+answer": log_probs(student.model, told, responses)[0].numpy(),
        }


def directions(
    arm: Arm, own: Floats, teacher: Floats, responses: Sequence[npt.NDArray[np.int32]]
) -> Floats:
    """Return where an arm points at every position, [L, T, V]; 0 after a response's end.

    Along logits and along log-probabilities it is the same: no direction has a sum.
    """
    out = np.zeros(own.shape)
    method = methods.get(arm.method)
    for row, ids in enumerate(responses):
        batch = NodeBatch.from_logits(own[row, : len(ids)], teacher[row, : len(ids)], ids)
        out[row, : len(ids)] = np.nan_to_num(method.ascent(batch))
    return out


def typical(nets: Mapping[str, Network], problem: Problem, index: int) -> Typical:
    """Average one question over its responses."""
    student = nets["student"]
    prompt = student.prompt_ids(problem.prompt)
    rng = np.random.default_rng([SEED, index])
    spines = [sample_spine(student, prompt, rng) for _ in range(RESPONSES)]
    root, _ = grow(student, problem, spines, min_mass=1e-4)
    teacher = teachers_on(nets, problem, spines)
    log_p, _, _ = log_probs(student.model, prompt, spines)
    own = log_p.detach().numpy()
    push = np.zeros(own.shape)
    for row, ids in enumerate(spines):
        here = root
        for at, token in enumerate(ids.tolist()):
            tops = {}
            for name, log_q in teacher.items():
                q_V = np.exp(log_q[row, at])
                order = np.argsort(-q_V)[:8]
                tops[name] = order[np.cumsum(q_V[order]) - q_V[order] < 0.98]
            chosen = choose_candidates(here.tokens, here.prob, token, tops)
            value_C = np.array([here.child(c).value for c in chosen.token_ids_C.tolist()])
            push[row, at, chosen.token_ids_C] = chosen.prob_C.sum() * ideal_gradient(
                chosen.prob_C, value_C
            )
            here = here.child(token)
    parameters = list(student.model.parameters())
    whole = (log_p * torch.from_numpy(push)).sum() / len(spines)
    ideal_D = flat(torch.autograd.grad(whole, parameters))
    updates, own_A, within_A = [], [], []
    for arm in ARMS:
        direction = directions(arm, own, teacher[arm.teacher], spines)
        each = []
        for row, ids in enumerate(spines):
            alone, _, _ = log_probs(student.model, prompt, [ids])
            loss = (alone[0] * torch.from_numpy(direction[row, : len(ids)])).sum()
            each.append(flat(torch.autograd.grad(loss, parameters)))
        each_LD = torch.stack(each)
        mean_D = each_LD.mean(dim=0)
        within = float(((each_LD - mean_D) ** 2).sum()) / (len(spines) - 1)
        updates.append(mean_D)
        own_A.append(float(mean_D @ mean_D) - within / len(spines))
        within_A.append(within)
    return Typical(ideal_D, torch.stack(updates), np.array(own_A), np.array(within_A))


def flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return gradients as one float64 vector."""
    return torch.cat([part.flatten() for part in parts]).double()


def success(model: torch.nn.Module, questions: Sequence[Exact]) -> float:
    """Return the mean probability of a right response."""
    with torch.no_grad():
        return float(
            np.mean(
                [
                    float(
                        log_prob_of(model, q.prompt_ids, q.responses).exp()
                        @ torch.from_numpy(q.reward_L)
                    )
                    for q in questions
                ]
            )
        )


def steps(student: Network, questions: Sequence[Exact]) -> list[dict[str, Any]]:
    """Take steps on one half of the questions, and look at the other."""
    found = []
    first, second = questions[0::2], questions[1::2]
    parameters = list(student.model.parameters())
    ideal_D = torch.stack([q.ideal_D for q in second]).mean(dim=0)
    before = success(student.model, second)
    kept = [p.detach().clone() for p in parameters]
    for a, arm in enumerate(ARMS):
        mean_D = torch.stack([q.update_AD[a] for q in first]).mean(dim=0)
        along_D = mean_D / mean_D.norm()
        predicted = float(ideal_D @ along_D)
        for length in LENGTHS:
            _move(parameters, kept, length * along_D)
            # Both ways round: what is even in the length goes, and rounding with it.
            forward = success(student.model, second) - before
            _move(parameters, kept, -length * along_D)
            backward = success(student.model, second) - before
            found.append(
                {
                    "arm": str(arm),
                    "length": length,
                    "predicted": predicted,
                    "forward": forward / length,
                    "centred": (forward - backward) / (2 * length),
                }
            )
            print(found[-1], flush=True)
        _move(parameters, kept, 0.0 * along_D)
    return found


def _move(
    parameters: Sequence[torch.Tensor], kept: Sequence[torch.Tensor], step_D: torch.Tensor
) -> None:
    """Put the weights where they were, and a step."""
    begin = 0
    with torch.no_grad():
        for parameter, old in zip(parameters, kept, strict=True):
            part = step_D[begin : begin + old.numel()].view_as(old)
            parameter.copy_(old + part.to(old.dtype))
            begin += old.numel()


def truths(questions: Sequence[Typical], responses: int) -> list[dict[str, float]]:
    """Return every arm's true numbers over the pool, from which questions are drawn."""
    ideal_D = torch.stack([q.ideal_D for q in questions]).mean(dim=0)
    out = []
    for a in range(len(ARMS)):
        mean_D = torch.stack([q.update_AD[a] for q in questions]).mean(dim=0)
        own = float(np.mean([q.own_A[a] for q in questions]))
        within = float(np.mean([q.within_A[a] for q in questions]))
        shared = float(mean_D @ mean_D) - within / (RESPONSES * len(questions))
        numbers = {"N": float(ideal_D @ mean_D), "shared": shared}
        for name, batch in BATCHES.items():
            length = math.sqrt(shared + (own - shared) / batch + within / (batch * responses))
            numbers[name] = numbers["N"] / length
        numbers["cosine"] = numbers["gain"] / float(ideal_D.norm())
        out.append(numbers)
    return out


@dataclass(frozen=True, eq=False)
class Drawn:
    """All questions' updates in all runs, a row per question and run.

    Attributes:
        ideal_XD: the ideal ones.
        updates: by arm and split, those of the arm, [X, D], and their squared lengths, [X].
        adamw: by arm, the gain along one row's step of AdamW of another row's question, [X, X].
        batches: by arm, the same of a batch's step and another batch, [J, J]. A run's batches
            come one after the other.
    """

    ideal_XD: Floats
    updates: dict[tuple[Arm, str], tuple[Floats, Floats]]
    adamw: dict[Arm, Floats]
    batches: dict[Arm, Floats]

    def grams(self, key: tuple[Arm, str]) -> UpdateGrams:
        """Return the inner products of all rows."""
        method_XD, own_X = self.updates[key]
        return UpdateGrams(
            self.ideal_XD @ method_XD.T, self.ideal_XD @ self.ideal_XD.T,
            method_XD @ method_XD.T, own_X,
        )  # fmt: skip


def drawn(folder: Path, problem_list: Sequence[Problem], draws: int) -> Drawn:
    """Score the questions with one seed after the other; finished runs are taken as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    task = folder / "questions.jsonl"
    rows = [
        {
            "id": f"q{index}",
            "prompt": problem.prompt,
            "answer": problem.answer,
            "contexts": {"answer": context_prompt(problem, "answer")},
        }
        for index, problem in enumerate(problem_list)
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ideal: list[Floats] = []
    updates: dict[tuple[Arm, str], list[tuple[Floats, Floats]]] = {}
    steps: dict[Arm, list[Floats]] = {arm: [] for arm in ARMS}
    on_batch: dict[Arm, list[Floats]] = {arm: [] for arm in ARMS}
    of_batch: list[Floats] = []
    for seed in range(draws):
        report = gradalign.score(
            **RUN, task=str(task), seed=seed, output_dir=str(folder / f"run{seed}")
        )
        run = Run(report.config, Resolved(**report.metadata["resolved"]))
        ids = question_ids(run)
        order = [ids.index(f"q{index}") for index in range(len(rows))]
        own_QD = ideal_sketches(run)
        ideal.append(own_QD[order])
        groups = [batch.questions for batch in batches(run) if batch.whole]
        of_batch += [own_QD[[ids.index(name) for name in group]].mean(axis=0) for group in groups]
        by_arm = adamw_sketches(run)
        for arm in ARMS:
            for split, own in question_updates(run, arm).items():
                pieces = updates.setdefault((arm, split), [])
                pieces.append((own.sketch_QD[order], own.length2_Q[order]))
            found = by_arm[arm]
            steps[arm].append(np.stack([found[(f"q{index}",)] for index in range(len(rows))]))
            on_batch[arm] += [found[group] for group in groups]
        print("run", seed, flush=True)
    ideal_XD = np.concatenate(ideal).astype(np.float64)
    return Drawn(
        ideal_XD=ideal_XD,
        updates={
            key: (np.concatenate([m for m, _ in pieces]), np.concatenate([o for _, o in pieces]))
            for key, pieces in updates.items()
            if len(pieces) == draws
        },
        adamw={arm: ideal_XD @ np.concatenate(own).T for arm, own in steps.items()},
        batches={arm: np.stack(of_batch) @ np.stack(own).T for arm, own in on_batch.items()},
    )


def population(grams: UpdateGrams, pool: int, draws: int) -> dict[str, float]:
    """Return an arm's numbers where questions are drawn again and again, each time in a run."""
    numbers = {
        "N": mean_of_pairs(grams.cross_QQ, pool),
        "shared": mean_of_pairs(grams.method_QQ, pool),
    }
    own = float(grams.own_Q.mean())
    for name, batch in BATCHES.items():
        length2 = numbers["shared"] + (own - numbers["shared"]) / batch
        numbers[name] = numbers["N"] / math.sqrt(length2)
    numbers["cosine"] = numbers["gain"] / math.sqrt(mean_of_pairs(grams.ideal_QQ, pool))
    apart = ~np.eye(pool, dtype=bool)
    by_run = [
        float(grams.cross_QQ[run : run + pool, run : run + pool][apart].mean())
        for run in range(0, pool * draws, pool)
    ]
    numbers["N_se"] = float(np.std(by_run, ddof=1)) / math.sqrt(draws)
    return numbers


def mean_of_pairs(gram_XX: Floats, pool: int) -> float:
    """Return the mean over two different places of a replica.

    They have one question with a chance of one in the pool, and then it is of different runs.
    """
    question = np.arange(len(gram_XX)) % pool
    other = question[:, None] != question[None, :]
    again = ~other & ~np.eye(len(gram_XX), dtype=bool)
    return float(gram_XX[other].mean() * (pool - 1) + gram_XX[again].mean()) / pool


def coverage(all_runs: Drawn, pool: int, draws: int, replicas: int) -> dict[str, Any]:
    """Return how often each interval holds the truth, in per cent: by questions, split and arm."""
    out: dict[str, Any] = {}
    for (arm, split), _ in all_runs.updates.items():
        grams = all_runs.grams((arm, split))
        truth = population(grams, pool, draws)
        names = (*BATCHES, "N", "cosine")
        for size, rows in _replicas(pool, draws, replicas):
            tally = _Tally(names)
            for at in rows:
                block = np.ix_(at, at)
                some = UpdateGrams(
                    grams.cross_QQ[block], grams.ideal_QQ[block], grams.method_QQ[block],
                    grams.own_Q[at],
                )  # fmt: skip
                tally.add(_intervals(some), truth)
            out.setdefault(str(size), {}).setdefault(split, {})[str(arm)] = tally.shares()
    for arm, gram_XX in all_runs.adamw.items():
        both_XX = 0.5 * (gram_XX + gram_XX.T)
        truth = {"one": mean_of_pairs(both_XX, pool)}
        for size, rows in _replicas(pool, draws, replicas):
            tally = _Tally(truth)
            for at in rows:
                tally.add({"one": mean_of_shared(both_XX[np.ix_(at, at)])[0]}, truth)
            out[str(size)].setdefault("adamw", {})[str(arm)] = tally.shares()
    for arm, gram_JJ in all_runs.batches.items():
        both_JJ = 0.5 * (gram_JJ + gram_JJ.T)
        apart = ~np.eye(len(both_JJ), dtype=bool)
        truth = {"batch": float(both_JJ[apart].mean())}
        for size in (size for size in SIZES if 2.5 * size <= len(both_JJ)):
            rng, tally = np.random.default_rng([SEED, size]), _Tally(truth)
            for _ in range(replicas):
                at = rng.choice(len(both_JJ), size, replace=False)
                tally.add({"batch": mean_of_shared(both_JJ[np.ix_(at, at)])[0]}, truth)
            out.setdefault(str(size), {}).setdefault("adamw batches", {})[str(arm)] = tally.shares()
    return out


def _replicas(pool: int, draws: int, replicas: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Yield numbers of questions with the rows of every replica, the same for all arms."""
    # Where most questions would have to come more often than there are runs, none can be drawn.
    for size in (size for size in SIZES if 2.5 * size <= pool * draws):
        rng = np.random.default_rng([SEED, size])
        yield size, [replica(rng, pool, draws, size) for _ in range(replicas)]


def _intervals(grams: UpdateGrams) -> dict[str, RatioSet | Estimate]:
    """Return every interval of a replica by the name of its number."""
    found: dict[str, RatioSet | Estimate] = {
        name: update_estimate(grams, step=batch).gain for name, batch in BATCHES.items()
    }
    found["cosine"] = update_estimate(grams, step=BATCHES["gain"]).cosine
    found["N"] = mean_of_shared(0.5 * (grams.cross_QQ + grams.cross_QQ.T))[0]
    return found


class _Tally:
    """Counts how often intervals hold the truth, and on which side they miss it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._seen = {name: Counter[str]() for name in names}

    def add(self, found: Mapping[str, RatioSet | Estimate], truth: Mapping[str, float]) -> None:
        for name, ends in found.items():
            self._seen[name].update(
                all=1,
                bounded=math.isfinite(ends.low) and math.isfinite(ends.high),
                above=bool(ends.low > truth[name]),
                below=bool(ends.high < truth[name]),
            )

    def shares(self) -> dict[str, dict[str, float]]:
        """Return per cent of the replicas, by number."""
        return {
            name: {
                "covered": 100.0 - 100.0 * (seen["above"] + seen["below"]) / seen["all"],
                "above": 100.0 * seen["above"] / seen["all"],
                "below": 100.0 * seen["below"] / seen["all"],
                "bounded": 100.0 * seen["bounded"] / seen["all"],
            }
            for name, seen in self._seen.items()
        }


def replica(rng: np.random.Generator, pool: int, draws: int, size: int) -> list[int]:
    """Draw questions with replacement; one that comes again is of another run."""
    while True:
        drawn_Q = rng.integers(0, pool, size)
        if np.bincount(drawn_Q).max() <= draws:
            break
    order = {q: rng.permutation(draws) for q in set(drawn_Q.tolist())}
    times: dict[int, int] = {}
    rows = []
    for q in drawn_Q.tolist():
        rows.append(int(order[q][times.get(q, 0)]) * pool + q)
        times[q] = times.get(q, 0) + 1
    return rows


def main() -> None:
    """Measure and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--questions", type=int, default=80, help="of the pool")
    parser.add_argument("--draws", type=int, default=12, help="runs on the same questions")
    parser.add_argument("--replicas", type=int, default=500)
    parser.add_argument("--work-dir", type=Path, default=OUT / "weights_truth")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    begin = time.perf_counter()
    problem_list = problems(args.questions, SEED)
    kept = args.work_dir / f"exact{args.questions}.json"
    if not kept.is_file():
        write_json(kept, exactly(problem_list))
    results: dict[str, Any] = json.loads(kept.read_text())
    all_runs = drawn(args.work_dir, problem_list, args.draws)
    results["population"] = {
        str(arm): population(all_runs.grams((arm, "all")), args.questions, args.draws)
        for arm in ARMS
    }
    print(results["truth"], results["population"], sep="\n", flush=True)
    results["coverage"] = coverage(all_runs, args.questions, args.draws, args.replicas)
    _show(results["coverage"])
    if args.out:
        seconds = time.perf_counter() - begin
        record = {"environment": environment(), "seconds": seconds, "settings": {
            "questions": args.questions, "draws": args.draws, "replicas": args.replicas
        }, **results}  # fmt: skip
        write_json(args.out, record)


def _show(found: Mapping[str, Any]) -> None:
    """Print every share of intervals that hold the truth, and on which side the others miss it."""
    for size, splits in found.items():
        for split, arms in splits.items():
            for arm, numbers in arms.items():
                for name, shares in numbers.items():
                    print(
                        f"{size:>4s} {split:16s} {arm:24s} {name:9s} {shares['covered']:6.1f} "
                        f"above {shares['above']:5.1f} below {shares['below']:5.1f} "
                        f"bounded {shares['bounded']:6.1f}"
                    )


def exactly(problem_list: Sequence[Problem]) -> dict[str, Any]:
    """Return what needs no run: the truth, and the steps."""
    nets = {name: Network(name) for name in ("student", "strong")}
    truth = truths(
        [typical(nets, problem, i) for i, problem in enumerate(problem_list)], RUN["num_rollouts"]
    )
    questions = [exact(nets, problem) for problem in problem_list]
    return {
        "mass": float(np.mean([_mass(nets["student"], q) for q in questions])),
        "truth": {str(arm): numbers for arm, numbers in zip(ARMS, truth, strict=True)},
        "steps": steps(nets["student"], questions),
    }


def _mass(student: Network, question: Exact) -> float:
    with torch.no_grad():
        return float(
            log_prob_of(student.model, question.prompt_ids, question.responses).exp().sum()
        )


if __name__ == "__main__":
    main()
