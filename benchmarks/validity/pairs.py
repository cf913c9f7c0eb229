"""Students, teachers and questions that the benchmark trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from gradalign.demo.addition import MAX_RESPONSE_TOKENS, generate, verify
from gradalign.models.checkpoints.loading import resolve_model
from gradalign.models.prompts.render import render
from gradalign.questions import Question
from gradalign.tasks.demo import question_of

CONTROLS = ("wrong-answer", "other-answer", "reference-free")
"""Contexts that tell something false, something useless, and nothing."""


@dataclass(frozen=True)
class Configuration:
    """One way to train the student.

    Attributes:
        teacher: MODEL or MODEL+CONTEXT, "" for methods that look at no teacher.
        method: a method spec of `gradalign.methods`, in its canonical form.
        estimator: which of the method's two directions is trained.
    """

    teacher: str
    method: str
    estimator: str = "expected"

    @property
    def label(self) -> str:
        """Method and teacher, as tables and plots name them."""
        teacher = self.teacher.rsplit("/", 1)[-1]
        return f"{self.method} @ {teacher}" if teacher else self.method

    def teacher_model(self, student: str) -> str:
        """The checkpoint that scores the student's tokens."""
        model = self.teacher.partition("+")[0]
        return student if model == "self" else model

    @property
    def context(self) -> str:
        """What that checkpoint is told."""
        return self.teacher.partition("+")[2] or "none"


@dataclass(frozen=True)
class Pair:
    """A student, its possible teachers, and a source of questions.

    Attributes:
        name: for tables and files.
        student: the checkpoint that is trained, as `gradalign.score` takes it.
        questions: (count, seed, held_out) to that many different questions, each with the
            prompts of its contexts.
        verify: (response text, gold answer) to the reward.
        verifier: the same as a verifier spec of `gradalign.score`.
        max_tokens: longest response.
        configurations: what is trained.
        tuned_on: the configuration on which the step size is tuned.
        selective: configurations for which selections of tokens are compared.
        dtype: precision of its models.
        at_once: questions whose responses go through the models together in a step of training;
            None for all. It bounds the memory, and changes no gradient.
    """

    name: str
    student: str
    questions: Callable[[int, int, bool], Sequence[Question]]
    verify: Callable[[str, str], float]
    verifier: str
    max_tokens: int
    configurations: tuple[Configuration, ...]
    tuned_on: Configuration
    selective: tuple[Configuration, ...] = ()
    dtype: str = "float32"
    at_once: int | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """All teachers, each once."""
        return tuple(dict.fromkeys(c.teacher for c in self.configurations if c.teacher))

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods, each once."""
        return tuple(dict.fromkeys(c.method for c in self.configurations))


FORWARD, JSD, REVERSE = "gkd:beta=0", "gkd", "opd"
BIASED = "opd:top_k=2,support=intersection,norm=none"
LOCAL = "opd:top_k=4,support=teacher"


def configurations(models: Sequence[str]) -> tuple[Configuration, ...]:
    """Cross teachers, contexts and methods; `models` are strong, middle and weak, in order."""
    strong, middle, weak = models
    crossed = [
        *((strong, method) for method in (FORWARD, JSD, REVERSE, BIASED, LOCAL)),
        *((middle, method) for method in (FORWARD, JSD, REVERSE)),
        *((weak, method) for method in (FORWARD, JSD, REVERSE)),
        *(("self+answer", method) for method in (FORWARD, JSD, REVERSE, BIASED)),
        *(("self+solution", method) for method in (FORWARD, JSD, REVERSE)),
        *((f"self+{name}", method) for name in CONTROLS for method in (FORWARD, JSD, REVERSE)),
    ]
    return (
        *(Configuration(teacher, method) for teacher, method in crossed),
        Configuration("", "dr_grpo", "sampled"),
        Configuration("", "random"),
        Configuration("", "uniform_negative", "sampled"),
    )


def _additions(count: int, seed: int, held_out: bool) -> Sequence[Question]:
    return [question_of(problem) for problem in generate(count, seed=seed, held_out=held_out)]


_ADDITION = ("demo:strong", "demo:middle", "demo:weak")

ADDITION = Pair(
    name="addition",
    student="demo:student",
    questions=_additions,
    verify=verify,
    verifier="demo:addition",
    max_tokens=MAX_RESPONSE_TOKENS,
    configurations=configurations(_ADDITION),
    tuned_on=Configuration("demo:strong", REVERSE),
    selective=(
        Configuration("demo:strong", REVERSE),
        Configuration("demo:weak", REVERSE),
        Configuration("self+answer", REVERSE),
    ),
)


@cache
def tokenizer_of(model: str) -> Any:
    """Load a model's tokenizer once per process."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(model))


def load_model(name: str, dtype: str = "float32") -> torch.nn.Module:
    """Load a fresh copy of a model, frozen and in evaluation mode."""
    from gradalign import models

    return models.load_model(name, dtype=dtype, device="cpu")


def context_ids(pair: Pair, question: Question, context: str) -> tuple[int, ...]:
    """Token ids of the question's prompt in a context."""
    return tuple(render(tokenizer_of(pair.student), question.contexts[context]))
