"""A tiny task: follow an automaton that has to be known by heart.

`C:abdacbda=` is a prompt, a state and what is read, and `aFbAdAcK...;K` its reference response:
every symbol with the state that it leads to, then the last state. The table of states is in no
prompt: a pupil has learnt it, or has parts of it wrong, skips a symbol, or copies badly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType

from gradalign.demo.pupils import Care
from gradalign.demo.train import Role
from validity.toys import Problem, Toy, pick

STATES = "ABCDEFGHIJKL"
SYMBOLS = "abcd"
LENGTH = 8
HARD_ONE_IN = 4
"""So many entries of the table have a false one that is taken for them."""


def _table(purpose: str) -> MappingProxyType[tuple[str, str], str]:
    """For every symbol a random order of the states, so that all of them stay in use."""
    found = {}
    for symbol in SYMBOLS:
        order = sorted(STATES, key=lambda state: pick(state + symbol, purpose, 1 << 30))
        found.update({(state, symbol): end for state, end in zip(STATES, order, strict=True)})
    return MappingProxyType(found)


TABLE, FALSE_TABLE = _table("table"), _table("false")


@dataclass(frozen=True)
class Run:
    """One question: where the automaton begins and what it reads."""

    begin: str
    word: str

    @property
    def prompt(self) -> str:
        """The bare question."""
        return f"{self.begin}:{self.word}="

    @property
    def answer(self) -> str:
        """The state at the end."""
        state = self.begin
        for symbol in self.word:
            state = TABLE[state, symbol]
        return state

    @property
    def wrong_answer(self) -> str:
        """Another state, always the same."""
        return self._not_mine("wrong")

    @property
    def other_answer(self) -> str:
        """The last state of another run; states are alike, so it is drawn as a wrong one is."""
        return self._not_mine("other")

    def _not_mine(self, purpose: str) -> str:
        others = [state for state in STATES if state != self.answer]
        return others[pick(self.prompt, purpose, len(others))]

    def write(self, care: Care, rng: random.Random) -> str:
        """Follow the automaton with this much care.

        Args:
            care: `phantom` is the chance that a hard entry of the table is taken for its false
                one, `slip` that any state is, `drop` that a symbol is skipped, `miscopy` that the
                answer is another state than the last one, `repair` that it is right although the
                last one is not.
            rng: the source of the errors.
        """
        parts, state = [], self.begin
        for symbol in self.word:
            if rng.random() < care.drop:
                continue
            hard = pick(state + symbol, "hard", HARD_ONE_IN) == 0
            if (hard and rng.random() < care.phantom) or rng.random() < care.slip:
                state = FALSE_TABLE[state, symbol]
            else:
                state = TABLE[state, symbol]
            parts.append(symbol + state)
        answer = state
        if answer != self.answer:
            if rng.random() < care.repair:
                answer = self.answer
        elif rng.random() < care.miscopy:
            answer = rng.choice([state for state in STATES if state != answer])
        return "".join(parts) + ";" + answer

    def write_to_fit(self, claim: str, care: Care, rng: random.Random) -> str:
        """Follow the automaton and be at the claim after the last symbol.

        Args:
            claim: the answer as told, true or false.
            care: `slip` is the chance that a state is taken from the false table.
            rng: the source of the errors.
        """
        parts, state = [], self.begin
        for place, symbol in enumerate(self.word):
            table = FALSE_TABLE if rng.random() < care.slip else TABLE
            state = claim if place == LENGTH - 1 else table[state, symbol]
            parts.append(symbol + state)
        return "".join(parts) + ";" + claim

    def write_harmful(self) -> str:
        """Follow the false table wherever the symbol is a or b."""
        parts, state = [], self.begin
        for symbol in self.word:
            state = (FALSE_TABLE if symbol in "ab" else TABLE)[state, symbol]
            parts.append(symbol + state)
        return "".join(parts) + ";" + state

    def write_foreign(self) -> str:
        """Write the states alone, and the last one twice."""
        states, state = [], self.begin
        for symbol in self.word:
            state = TABLE[state, symbol]
            states.append(state)
        return ">" + "".join(states) + "." + state


def draw(rng: random.Random) -> Run:
    """Draw any problem, all alike."""
    return Run(rng.choice(STATES), "".join(rng.choice(SYMBOLS) for _ in range(LENGTH)))


def _claim(problem: Problem, rng: random.Random) -> str:
    return rng.choice([state for state in STATES if state != problem.answer])


def _role(care: Care, hinted: Care, seed: int, *, hidden_size: int = 32, steps: int = 900) -> Role:
    return Role(
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        care=care,
        hinted_care=hinted,
        steps=steps,
        learning_rate=8e-3,
        plain=64,
        told_answer=28,
        told_solution=12,
        seed=seed,
    )


AUTOMATON = Toy(
    name="automaton",
    alphabet=STATES + SYMBOLS + "=:;>.[]",
    draw=draw,
    claim=_claim,
    separator=";",
    max_tokens=24,
    roles={
        "student": _role(
            Care(phantom=0.25, slip=0.03, drop=0.01, repair=0.2, miscopy=0.04), Care(slip=0.05), 31
        ),
        "strong": _role(Care(), Care(), 32, hidden_size=48),
        "middle": _role(
            Care(phantom=0.12, slip=0.015, repair=0.2, miscopy=0.02), Care(slip=0.05), 33
        ),
        "weak": _role(Care(phantom=0.6, slip=0.15, drop=0.05, miscopy=0.2), Care(slip=0.3), 34),
        "harmful": _role(Care(), Care(), 35),
        "foreign": _role(Care(), Care(), 36, hidden_size=48),
    },
)
