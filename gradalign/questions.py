"""Questions and attempts at them: what tasks give, contexts show, and verifiers look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; rendered by the tokenizer's chat template."""

    role: str
    content: str


Prompt: TypeAlias = str | tuple[Message, ...]
"""A raw string, tokenised as it stands, or messages for the chat template."""


LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The letters of a multiple-choice question's options, in order."""


@dataclass(frozen=True)
class Question:
    """A prompt with what is needed to verify a response and to inform a teacher.

    Attributes:
        id: unique within the task.
        prompt: what the student sees.
        answer: the gold answer that verifiers compare with.
        solution: a worked solution, for the context `solution`.
        choices: the options of a multiple-choice question, in order.
        feedback: what a grader would tell the student, for the context `feedback`.
        contexts: teacher prompts given verbatim, by context name; they win over the built-in
            context of the same name.
        metadata: anything else of the row that verifiers or templates may use.
    """

    id: str
    prompt: Prompt
    answer: str | None = None
    solution: str | None = None
    choices: tuple[str, ...] = ()
    feedback: str | None = None
    contexts: Mapping[str, Prompt] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)

    def to_record(self) -> dict[str, Any]:
        """Return the question as plain values, for JSON; metadata is passed on as it is."""
        return {
            "id": self.id,
            "prompt": _prompt_to_record(self.prompt),
            "answer": self.answer,
            "solution": self.solution,
            "choices": list(self.choices),
            "feedback": self.feedback,
            "contexts": {name: _prompt_to_record(item) for name, item in self.contexts.items()},
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Question:
        """Read what `to_record` returned."""
        return cls(
            id=record["id"],
            prompt=_prompt_from_record(record["prompt"]),
            answer=record["answer"],
            solution=record["solution"],
            choices=tuple(record["choices"]),
            feedback=record["feedback"],
            contexts={name: _prompt_from_record(item) for name, item in record["contexts"].items()},
            metadata=record["metadata"],
        )


@dataclass(frozen=True)
class Attempt:
    """A spine as contexts see it: the student's response text and its reward.

    The reward is NaN where the verification failed; it is then neither right nor wrong.
    """

    spine_id: str
    text: str
    reward: float


def _prompt_to_record(prompt: Prompt) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def _prompt_from_record(value: str | list[Mapping[str, str]]) -> Prompt:
    if isinstance(value, str):
        return value
    return tuple(Message(item["role"], item["content"]) for item in value)
