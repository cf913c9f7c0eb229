"""The prompts of many questions, of which only the lengths are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from gradalign.questions import Question


class RenderedPrompts(Sequence[list[int]]):
    """Token ids of every question's prompt, rendered when they are asked for.

    All prompts of a run at once may be more than fits into memory, and rendering one again is
    cheap.

    Args:
        questions: in the order of the run.
        render: makes the token ids of a question's prompt; each is called once at the start.

    Attributes:
        lengths: number of tokens of each prompt.
    """

    def __init__(
        self, questions: Sequence[Question], render: Callable[[Question], list[int]]
    ) -> None:
        self._questions, self._render = questions, render
        self.lengths = [len(render(question)) for question in questions]

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self._render(question) for question in self._questions[index]]
        return self._render(self._questions[index])
