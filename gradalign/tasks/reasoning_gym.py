"""The task `reasoning_gym:NAME`: procedural tasks of reasoning-gym, with its own scorers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from gradalign.questions import Message, Question
from gradalign.reasoning_gym_data import check_name, dataset_of, entry_at, parse, plain
from gradalign.tasks.base import TaskSource
from gradalign.tasks.registry import TASKS
from gradalign.tasks.row_checks import check_question, select, text_of

INSTRUCTION = (
    "Think it through, then write the final answer between <answer> and </answer>, "
    "with nothing else between the tags."
)


class ReasoningGymTask:
    """`reasoning_gym:NAME:key=value,...`; options go to the generator (size, seed, its own).

    Without `seed` the data set is that of seed 0, so that a run can be repeated.

    Args:
        argument: what follows `reasoning_gym:`.
    """

    description = "a procedural task of reasoning-gym, with its own scorer"

    def __init__(self, argument: str) -> None:
        name, options = parse(argument)
        self.name = f"reasoning_gym:{argument}"
        self.verifier = self.name
        self._argument = argument
        check_name(name)
        from importlib.metadata import version

        settings = ",".join(f"{key}={value}" for key, value in sorted(options.items()))
        self.fingerprint = f"generated:reasoning-gym=={version('reasoning-gym')}:{name}:{settings}"

    @property
    def size(self) -> int:
        """Number of all questions."""
        return len(self._questions)

    def questions(
        self, limit: int | None = None, ids: Sequence[str] = (), seed: int = 0
    ) -> Sequence[Question]:
        """Return questions in the order that `select` documents.

        Raises:
            TaskError: the generator fails.
        """
        return select(self._questions, limit, ids, seed, self.name)

    @cached_property
    def _questions(self) -> list[Question]:
        dataset = dataset_of(self._argument)
        questions = []
        for index in range(len(dataset)):
            entry = entry_at(dataset, index, self._argument)
            answer = _answer_text(entry.get("answer"), f"{self.name}, entry {index}: the answer")
            question = Question(
                id=str(index),
                prompt=(Message("user", f"{entry['question']}\n\n{INSTRUCTION}"),),
                answer=answer,
                solution=_solution(entry, answer),
                metadata={"index": index, "entry": plain(entry)},
            )
            check_question(question, f"{self.name}, entry {index}")
            questions.append(question)
        return questions


def _answer_text(answer: object, what: str) -> str | None:
    """Return an entry's answer as text; some generators give other things than numbers."""
    if isinstance(answer, (int, float)):
        return text_of(answer, what)
    return None if answer is None else str(answer)


def _solution(entry: Mapping[str, Any], answer: str | None) -> str | None:
    """Return a generator's worked answer, ended as the instruction asks.

    `gsm_symbolic` has one, in GSM8K's form with "#### N" at its end. What others call a solution
    is the answer once more, as data.
    """
    worked = entry.get("metadata", {}).get("answer_cot")
    if not isinstance(worked, str):
        return None
    steps = worked.rpartition("####")[0] or worked
    return f"{steps.strip()}\n<answer>{answer}</answer>"


TASKS.register("reasoning_gym")(
    TaskSource(
        "procedural tasks of reasoning-gym with their own scorers",
        ReasoningGymTask,
        extra="tasks",
        example="reasoning_gym:chain_sum:size=200,seed=1",
    )
)
