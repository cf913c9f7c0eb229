"""The verifier `reasoning_gym`: the scorers that come with its tasks."""

from __future__ import annotations

from gradalign.questions import Question
from gradalign.reasoning_gym_data import dataset_of, entry_of
from gradalign.verifiers.base import NOTHING, FunctionVerifier, Scored, Verifier
from gradalign.verifiers.reading.response import spoken
from gradalign.verifiers.registry import VERIFIERS

OPENING, CLOSING = "<answer>", "</answer>"


@VERIFIERS.register("reasoning_gym")
def reasoning_gym(argument: str) -> Verifier:
    """The task's own scorer on what stands in the last <answer>...</answer> of a response.

    The data set is generated again from the spec, so that the scorer gets its own entry, with
    the types that it wrote, and not what a file made of them.

    Raises:
        MissingDependencyError: reasoning-gym is not installed.
        UnknownNameError: it has no such task.
    """
    dataset = dataset_of(argument)

    def score(text: str, question: Question) -> float:
        answer = last_answer(text)
        if answer is None:
            return Scored(0.0, None, NOTHING)
        entry = entry_of(dataset, argument, question)
        try:
            return Scored(float(dataset.score_answer(answer, entry)), answer, "tag")
        except Exception:  # scorers stumble in their own ways over what they cannot read
            dataset.score_answer(entry["answer"], entry)  # raises if it is the scorer's own fault
            return Scored(0.0, answer, "tag")

    return FunctionVerifier(score)


def last_answer(text: str) -> str | None:
    """Return what the last answer tag after a thinking part holds.

    None if there is none or it is not closed.
    """
    text = spoken(text) or ""
    start = text.rfind(OPENING)
    if start < 0:
        return None
    inside, closing, _ = text[start + len(OPENING) :].partition(CLOSING)
    return inside.strip() if closing else None
