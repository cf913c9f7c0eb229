"""The demo's task: add two numbers column by column, carries written out, answer last.

`358+967=` is a prompt and `8+7=15,5+6+1=12,3+9+1=13,1325` its reference response. Privileged
information stands in square brackets before the question: `[1325]358+967=`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gradalign.errors import UnknownNameError, UsageError

MAX_RESPONSE_TOKENS = 40
"""One token per character and one to end: a reference response has at most 33 of them."""

_HELD_OUT_ONE_IN = 8


@dataclass(frozen=True, order=True)
class Problem:
    """One addition question.

    Attributes:
        a, b: the summands, non-negative and with the same number of decimal digits.
    """

    a: int
    b: int

    def __post_init__(self) -> None:
        """Refuse summands that the column notation cannot express."""
        if self.a < 0 or self.b < 0 or len(str(self.a)) != len(str(self.b)):
            raise UsageError(
                f"an addition problem needs two non-negative summands of equal length, got "
                f"{self.a} and {self.b}."
            )

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """The digits of `a` and `b` above each other, ones first."""
        return tuple(
            (int(x), int(y)) for x, y in zip(str(self.a)[::-1], str(self.b)[::-1], strict=True)
        )

    @property
    def prompt(self) -> str:
        """The bare question."""
        return f"{self.a}+{self.b}="

    @property
    def answer(self) -> str:
        """The sum in decimal."""
        return str(self.a + self.b)

    @property
    def response(self) -> str:
        """The reference solution: every column with its carry, then the answer."""
        parts: list[str] = []
        carry = 0
        for x, y in self.columns:
            total = x + y + carry
            parts.append(f"{x}+{y}{'+1' if carry else ''}={total}")
            carry = total // 10
        return ",".join([*parts, self.answer])

    @property
    def wrong_answer(self) -> str:
        """A false answer, always the same for one problem: as long as the sum, no digit right."""
        draw = _hash("wrong", self.a, self.b)
        digits: list[str] = []
        for place, true in enumerate(self.answer):
            choices = [d for d in "0123456789" if d != true and (place or d != "0")]
            draw, index = divmod(draw, len(choices))
            digits.append(choices[index])
        return "".join(digits)

    @property
    def other_answer(self) -> str:
        """Another problem's answer, always the same one, of as many digits; never this one's."""
        low, high = 10 ** (len(str(self.a)) - 1), 10 ** len(str(self.a))
        for attempt in range(100):
            draw = _hash("other", self.a, self.b, attempt)
            draw, first = divmod(draw, high - low)
            found = str(2 * low + first + draw % (high - low))
            if found != self.answer:
                return found
        raise AssertionError("a hundred other problems with one answer")

    @property
    def is_held_out(self) -> bool:
        """Whether the problem is kept from training; a+b and b+a are on the same side."""
        return _hash("split", *sorted((self.a, self.b))) % _HELD_OUT_ONE_IN == 0


def with_hint(problem: Problem, hint: str) -> str:
    """Return the prompt of `problem` with privileged information before it."""
    return f"[{hint}]{problem.prompt}"


CONTEXTS: Mapping[str, Callable[[Problem], str]] = MappingProxyType(
    {
        "none": lambda problem: problem.prompt,
        "answer": lambda problem: with_hint(problem, problem.answer),
        "solution": lambda problem: with_hint(problem, problem.response),
        "wrong-answer": lambda problem: with_hint(problem, problem.wrong_answer),
        "other-answer": lambda problem: with_hint(problem, problem.other_answer),
        "reference-free": lambda problem: with_hint(problem, ""),
        "reference-only": lambda problem: with_hint(problem, problem.answer).removesuffix(
            problem.prompt
        ),
    }
)
"""What a teacher may be told, by name: each entry builds its prompt from a problem."""


def context_prompt(problem: Problem, context: str) -> str:
    """Return the prompt that a teacher with this context gets.

    Raises:
        UnknownNameError: no such context.
    """
    if context not in CONTEXTS:
        raise UnknownNameError(
            f"the demo task has no context {context!r}.", f"Known: {', '.join(CONTEXTS)}."
        )
    return CONTEXTS[context](problem)


def extract_answer(text: str) -> str:
    """Return what follows the last comma of a response, without surrounding blanks."""
    return text.rpartition(",")[2].strip()


def verify(text: str, answer: str) -> float:
    """Return 1.0 if the response ends in the answer, written exactly, and 0.0 if not.

    Args:
        text: a decoded response without its end token.
        answer: the gold answer.
    """
    return float("," in text and extract_answer(text) == answer)


def draw_problem(rng: random.Random, *, held_out: bool) -> Problem:
    """Draw one problem of two or three digits from one side of the split.

    Two digits come up once in four times; the summands are uniform given their length.
    """
    while True:
        low = 10 if rng.random() < 0.25 else 100
        problem = Problem(rng.randrange(low, 10 * low), rng.randrange(low, 10 * low))
        if problem.is_held_out == held_out:
            return problem


def generate(count: int, *, seed: int, held_out: bool = True) -> list[Problem]:
    """Draw `count` different problems; a shorter list is the beginning of a longer one.

    Args:
        count: number of problems, at most 50,000.
        seed: of the draw.
        held_out: True for evaluation, False for training; the two never share a problem.

    Raises:
        UsageError: a count out of range.
    """
    if not 0 <= count <= 50_000:
        raise UsageError(f"cannot draw {count} addition problems.", "Ask for 0 to 50000.")
    rng = random.Random(seed)
    drawn: dict[Problem, None] = {}
    while len(drawn) < count:
        drawn.setdefault(draw_problem(rng, held_out=held_out))
    return list(drawn)


def _hash(purpose: str, *numbers: int) -> int:
    text = "\x00".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")
