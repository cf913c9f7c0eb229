"""What a verifier is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gradalign.errors import UsageError
from gradalign.questions import Question


class Scored(float):
    """A reward that says what it was given for; a number like any other.

    Attributes:
        answer: what was read as the response's answer, None if there is none.
        read_by: the verifier's name of the rule that found it, `NOTHING` if none did.
    """

    answer: str | None
    read_by: str

    def __new__(cls, reward: float, answer: str | None, read_by: str) -> Scored:
        """Make the number."""
        made = super().__new__(cls, reward)
        made.answer = answer
        made.read_by = read_by
        return made


NOTHING = "nothing"
"""`Scored.read_by` where a response gives no answer that can be read."""


class Verifier(Protocol):
    """Turns a response into a reward.

    Attributes:
        needs_answer: whether it compares with `Question.answer`.
        in_process: whether it is quick and cannot hang on any input, so that it need not run
            in a process of its own.
    """

    @property
    def needs_answer(self) -> bool:
        """See the class."""
        ...

    @property
    def in_process(self) -> bool:
        """See the class."""
        ...

    def __call__(self, text: str, question: Question) -> float:
        """Return the reward of a response, in [0, 1]; a `Scored` also tells how it was read."""
        ...

    def check(self, question: Question) -> None:
        """Raise TaskError if the question lacks what this verifier needs."""
        ...


@dataclass(frozen=True)
class FunctionVerifier:
    """A plain function as a verifier; the base of the built-in ones.

    Attributes:
        function: (text, question) -> reward.
        needs_answer, in_process: see `Verifier`.
        check_function: raises TaskError for a question that cannot be verified.
    """

    function: Callable[[str, Question], float]
    needs_answer: bool = False
    in_process: bool = False
    check_function: Callable[[Question], None] | None = None

    def __call__(self, text: str, question: Question) -> float:
        """Call the function."""
        return self.function(text, question)

    def check(self, question: Question) -> None:
        """Call the check, if there is one."""
        if self.check_function is not None:
            self.check_function(question)


VerifierFactory = Callable[[str], Verifier]
"""Makes a verifier from what follows the colon of its spec ("" if nothing does)."""


def no_argument(name: str, argument: str) -> None:
    """Refuse `name:something` for a verifier without options."""
    if argument:
        raise UsageError(f"verifier {name} takes no argument, got {argument!r}.", f"Write {name}.")
