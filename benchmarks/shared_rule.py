"""Does a rule that all questions share align better than information about the one question?

    python benchmarks/shared_rule.py --out benchmarks/results/shared_rule.json

"The Many Faces of On-Policy Distillation" (arXiv 2605.11182) finds that self-distillation works
when the privileged information is a shared rule and fails when it is specific to an instance. Here
the one half of that which needs no training of the student is measured: how well each kind of
teacher's update agrees with the ideal gradient, node by node. Whether a student can keep what such
updates teach once the information is gone is the other half, and is not measured here.

A sibling of the bundled student (same architecture, same task) is trained on prompts that carry
nothing (solutions of a careless pupil), the rule `careful` (solutions of a pupil without errors),
the answer, or the solution. Then it is its own teacher:
    self+system:@rule.txt   shared: the rule, as a system message through the chat template
    self+answer             instance-specific: the true answer
    self+solution           instance-specific: the true worked solution
    self+wrong-answer       the control: a false answer
on the same spines, nodes and continuations of held-out questions. The pupil who knows the rule
makes no errors, so under the rule the sibling has never seen how one is made up for; told an answer
or a solution, it has learnt to make the columns fit. Beside the alignments stands how
often each teacher succeeds by itself and after the student's own beginnings, so that a difference
in alignment can be told from one in competence. Differences are paired, resampled over questions,
and corrected for their number (Holm). The conclusion is computed from the numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shared_rule_numbers import (
    Resampling,
    alignment,
    comparisons,
    success,
    success_differences,
)
from shared_rule_text import CONTEXTS, METHODS, SHARED, conclusion, rounded, table

import gradalign
from gradalign.contexts import get as get_context
from gradalign.contexts import parse_teacher
from gradalign.demo import model_path
from gradalign.demo.addition import Problem, context_prompt, generate, with_hint
from gradalign.demo.tokenizer import build_tokenizer
from gradalign.demo.train import ROLES, Role, export, train
from gradalign.models.prompts.render import render
from gradalign.report.node_scores import read_scores
from gradalign.report.report import Report
from gradalign.store.manifest import hardware, versions
from gradalign.tasks import load_task

RULE = "careful"


@dataclass(frozen=True)
class Plan:
    """How much is spent.

    Attributes:
        questions, rollouts, nodes, continuations: as the settings of a run.
        steps: of the sibling's training.
        from_bundled: go on from the bundled student instead of new weights.
        learning_rate: peak.
        seed: of the sibling's weights and rows.
        run_seed: of the run and of the resampling.
        resamples: of every bootstrap.
    """

    questions: int = 60
    rollouts: int = 4
    nodes: int = 8
    continuations: int = 8
    steps: int = 1000
    from_bundled: bool = False
    learning_rate: float = 6e-3
    seed: int = 11
    run_seed: int = 0
    resamples: int = 20_000


QUICK = Plan(
    questions=6,
    rollouts=2,
    nodes=4,
    continuations=4,
    steps=60,
    from_bundled=True,
    learning_rate=2e-3,
    resamples=2_000,
)


def sibling_role(plan: Plan) -> Role:
    """The bundled student's role with a share of its rows under the rule."""
    return replace(
        ROLES["student"],
        plain=48,
        told_answer=32,
        told_solution=16,
        told_rule=32,
        rule=RULE,
        learning_rate=plan.learning_rate,
        steps=plan.steps,
        seed=plan.seed,
    )


def make_sibling(plan: Plan, work: Path) -> tuple[Path, float]:
    """Train the sibling unless `work` has it; return its folder and the CPU seconds spent."""
    role = sibling_role(plan)
    key = hashlib.sha256(f"{role!r}{plan.from_bundled}".encode()).hexdigest()[:12]
    folder, marker = work / f"sibling-{key}", work / f"sibling-{key}.json"
    if not marker.is_file():
        begin = time.process_time()
        model = train(role, start=model_path("student") if plan.from_bundled else None)
        export(model, folder)
        marker.write_text(json.dumps({"cpu_seconds": time.process_time() - begin}))
    return folder, float(json.loads(marker.read_text())["cpu_seconds"])


def write_questions(problems: Sequence[Problem], path: Path) -> None:
    """Write rows of messages; what is specific to a question is put as the sibling learnt it."""
    rows = []
    for problem in problems:
        user = {"role": "user", "content": problem.prompt}
        hints = {
            "answer": problem.answer,
            "solution": problem.response,
            "wrong-answer": problem.wrong_answer,
        }
        rows.append(
            {
                "id": problem.prompt.rstrip("="),
                "messages": [user],
                "answer": problem.answer,
                "solution": problem.response,
                "contexts": {
                    name: [{"role": "system", "content": hint}, user]
                    for name, hint in hints.items()
                },
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def teacher_specs(rule: Path) -> dict[str, str]:
    """Teachers as `gradalign score --teacher` takes them, by the name used in the tables."""
    return {f"self+{name}": f"self+{name.replace('rule.txt', str(rule))}" for name in CONTEXTS}


def check_prompts(problems: Sequence[Problem], questions: Path, rule: Path) -> None:
    """Make sure that every prompt has the very ids that the sibling was trained on.

    Raises:
        RuntimeError: one has not.
    """
    tokenizer = build_tokenizer()
    rows = {question.id: question for question in load_task(str(questions)).questions()}
    for problem in problems:
        question = rows[problem.prompt.rstrip("=")]
        pairs = [(question.prompt, problem.prompt)]
        for name, spec in zip(CONTEXTS, teacher_specs(rule).values(), strict=True):
            context = get_context(parse_teacher(spec).context, list(rows.values()))
            learnt = with_hint(problem, RULE) if name == SHARED else context_prompt(problem, name)
            shown = context.prompt(question, None, ())
            assert shown is not None
            pairs.append((shown, learnt))
        for shown, learnt in pairs:
            if render(tokenizer, shown) != list(tokenizer(learnt)["input_ids"]):
                raise RuntimeError(f"{question.id}: {shown} does not become {learnt!r}.")


def score(plan: Plan, student: Path, work: Path) -> tuple[Report, dict[str, str]]:
    """Score the four self-teachers; return the run and the teachers' labels by short name."""
    problems = generate(plan.questions, seed=plan.run_seed)
    questions, rule = work / "questions.jsonl", work / "rule.txt"
    write_questions(problems, questions)
    rule.write_text(RULE + "\n", encoding="utf-8")
    check_prompts(problems, questions, rule)
    teachers = teacher_specs(rule)
    settings = asdict(plan)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    report = gradalign.score(
        student=str(student),
        teachers=list(teachers.values()),
        task=str(questions),
        verifier="demo:addition",
        methods=list(METHODS),
        output_dir=str(work / f"run-{key}"),
        num_rollouts=plan.rollouts,
        nodes=plan.nodes,
        continuations=plan.continuations,
        max_tokens=40,
        seed=plan.run_seed,
        diagnose=["prefix"],
        engine="transformers",
    )
    return report, {name: parse_teacher(spec).label for name, spec in teachers.items()}


def machine() -> dict[str, Any]:
    """The hardware, with the processor's name where the system tells it."""
    found = {name: value for name, value in hardware().items() if name != "platform"}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        found["processor"] = named[0].partition(":")[2].strip() if named else found["processor"]
    return found


def measure(plan: Plan, work: Path) -> dict[str, Any]:
    """Train, score, compare."""
    student, training_seconds = make_sibling(plan, work)
    report, labels = score(plan, student, work)
    scores = read_scores(report)
    questions = scores.questions
    draws = Resampling(plan.run_seed, plan.resamples)
    result: dict[str, Any] = {
        "config": {
            **asdict(plan),
            "rule": RULE,
            "methods": METHODS,
            "role": asdict(sibling_role(plan)),
        },
        "hardware": machine(),
        "versions": versions(),
        "training_cpu_seconds": training_seconds,
        "num_questions": len(questions),
        "num_nodes": len(scores.node_id_N),
        "success": success(report, labels, questions, draws),
        "success_differences": success_differences(report, labels, questions, draws),
        "alignment": alignment(report, scores, labels, draws),
        "comparisons": comparisons(report, scores, labels, draws),
    }
    result["conclusion"] = conclusion(result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small try, not a result")
    parser.add_argument("--questions", type=int, help="instead of the plan's own number")
    parser.add_argument("--seed", type=int, help="of the sibling's weights and rows")
    parser.add_argument("--work", type=Path, help="folder to keep the sibling and the run in")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    if options.questions is not None:
        plan = replace(plan, questions=options.questions)
    if options.seed is not None:
        plan = replace(plan, seed=options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        result = measure(plan, work)
    print(table(result), "", *result["conclusion"], sep="\n")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
