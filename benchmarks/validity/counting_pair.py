"""The second pair: counting letters, with models that are trained when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradalign.questions import Question
from validity.counting import (
    CONTEXTS,
    MAX_RESPONSE_TOKENS,
    ROLES,
    Count,
    context_prompt,
    generate,
    training_rows,
)
from validity.pairs import REVERSE, Configuration, Pair, configurations

VERIFIER = r"regex:,([0-9]+)$"


def question_of(problem: Count) -> Question:
    """Turn a problem into a question that carries the teacher prompts of every context."""
    return Question(
        id=problem.prompt.rstrip("="),
        prompt=problem.prompt,
        answer=problem.answer,
        solution=problem.response,
        contexts={name: context_prompt(problem, name) for name in CONTEXTS},
    )


def _questions(count: int, seed: int, held_out: bool) -> Sequence[Question]:
    return [question_of(item) for item in generate(count, seed=seed, held_out=held_out)]


def verify(text: str, answer: str) -> float:
    """Return 1.0 if the response ends in a comma and the answer."""
    head, comma, last = text.rpartition(",")
    return float(bool(head and comma) and last == answer)


def train_models(folder: Path) -> None:
    """Train the models that `folder` lacks, with the script of the bundled ones."""
    from gradalign.demo.train import export, train

    for name, role in ROLES.items():
        if not (folder / name / "tokenizer_config.json").is_file():
            export(train(role, rows=training_rows), folder / name)


def counting(folder: Path) -> Pair:
    """The pair, with its models in `folder`."""
    strong, middle, weak = (str(folder / name) for name in ("strong", "middle", "weak"))
    return Pair(
        name="counting",
        student=str(folder / "student"),
        questions=_questions,
        verify=verify,
        verifier=VERIFIER,
        max_tokens=MAX_RESPONSE_TOKENS,
        configurations=configurations((strong, middle, weak)),
        tuned_on=Configuration(strong, REVERSE),
        selective=(
            Configuration(strong, REVERSE),
            Configuration(weak, REVERSE),
            Configuration("self+answer", REVERSE),
        ),
    )
