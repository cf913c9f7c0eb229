"""The task `demo:addition`, with every context that the bundled models were trained on."""

from __future__ import annotations

from collections.abc import Sequence

from gradalign.demo.addition import CONTEXTS, Problem, generate
from gradalign.errors import UnknownNameError, UsageError
from gradalign.questions import Question
from gradalign.registry import parse_spec
from gradalign.tasks.base import TaskSource
from gradalign.tasks.registry import TASKS
from gradalign.tasks.row_checks import select

DEFAULT_SIZE = 64
DEFAULT_SEED = 0


class AdditionTask:
    """Held-out addition problems; `demo:addition:size=200,seed=1` draws others.

    Args:
        size: number of problems.
        seed: of the draw (not of the order, which the run's seed decides).
    """

    description = "the bundled task: multi-digit addition with its carries"
    verifier = "demo:addition"

    def __init__(self, size: int = DEFAULT_SIZE, seed: int = DEFAULT_SEED) -> None:
        self.name = "demo:addition"
        if (size, seed) != (DEFAULT_SIZE, DEFAULT_SEED):
            self.name += f":size={size},seed={seed}"
        self.fingerprint = f"generated:addition:size={size},seed={seed}"
        self.size = size
        self._seed = seed

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return problems in the order that `select` documents."""
        problems = generate(self.size, seed=self._seed)
        return select([question_of(problem) for problem in problems], limit, ids, seed, self.name)


def question_of(problem: Problem) -> Question:
    """Turn a problem into a question that carries the teacher prompts of every context."""
    return Question(
        id=problem.prompt.rstrip("="),
        prompt=problem.prompt,
        answer=problem.answer,
        solution=problem.response,
        contexts={name: build(problem) for name, build in CONTEXTS.items()},
    )


def build(argument: str) -> AdditionTask:
    """Make the task from what follows `demo:`, such as `addition:size=200`.

    Raises:
        UsageError: an unknown option or a value that is not a whole number.
    """
    name, options = parse_spec(argument)
    if name != "addition":
        raise UnknownNameError(f"unknown task 'demo:{name}'.", "Known: demo:addition.")
    numbers = {}
    for key, value in options.items():
        if key not in {"size", "seed"} or not value.isdecimal():
            raise UsageError(
                f"task demo:addition: {key}={value} cannot be used.",
                "Options: size and seed, whole numbers.",
            )
        numbers[key] = int(value)
    return AdditionTask(**numbers)


TASKS.register("demo")(
    TaskSource("multi-digit addition for the bundled models", build, example="demo:addition")
)
