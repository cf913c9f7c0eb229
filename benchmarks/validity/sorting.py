"""A tiny task: sort letters, the smallest first, and write down what is left.

`dbcab=` is a prompt and `a:dbcb;b:dcb;b:dc;c:d;d:,abbcd` its reference response: the letter that is
taken, what is left, and at last the letters that were taken. A pupil may take the wrong one, lose
or repeat a letter, or copy the answer badly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gradalign.demo.pupils import Care
from gradalign.demo.train import Role
from validity.toys import Problem, Toy, pick

LETTERS = "abcdefg"
LENGTH = 5


@dataclass(frozen=True)
class Letters:
    """One question: letters to sort."""

    word: str

    @property
    def prompt(self) -> str:
        """The bare question."""
        return f"{self.word}="

    @property
    def answer(self) -> str:
        """The letters in order."""
        return "".join(sorted(self.word))

    @property
    def wrong_answer(self) -> str:
        """Sorted letters, one of which is another."""
        place = pick(self.word, "place", LENGTH)
        others = [letter for letter in LETTERS if letter != self.word[place]]
        other = others[pick(self.word, "wrong", len(others))]
        return "".join(sorted(self.word[:place] + other + self.word[place + 1 :]))

    @property
    def other_answer(self) -> str:
        """The answer of other letters."""
        for attempt in range(100):
            drawn = (pick(self.word, f"other {attempt} {at}", len(LETTERS)) for at in range(LENGTH))
            found = "".join(sorted(LETTERS[index] for index in drawn))
            if found != self.answer:
                return found
        raise AssertionError("a hundred other words with one answer")

    def write(self, care: Care, rng: random.Random) -> str:
        """Sort with this much care.

        Args:
            care: `slip` is the chance that the letter taken is not the smallest, `drop` that one
                of those left is lost in copying, `recall` that it comes back at once, `phantom`
                that one is written twice, `miscopy` that two neighbours change places in the
                answer, `repair` that the answer is right although the lines are not.
            rng: the source of the errors.
        """
        left, taken, lines = list(self.word), "", []
        while left and len(lines) < LENGTH:
            least = min(left)
            if rng.random() < care.slip and len(set(left)) > 1:
                least = sorted(set(left))[1]
            left.remove(least)
            taken += least
            if len(left) > 1 and rng.random() < care.drop and rng.random() >= care.recall:
                left.pop(rng.randrange(len(left)))
            if left and len(left) + len(taken) <= LENGTH and rng.random() < care.phantom:
                place = rng.randrange(len(left))
                left.insert(place, left[place])
            lines.append(f"{least}:{''.join(left)}")
        answer = taken
        if answer != self.answer:
            if rng.random() < care.repair:
                answer = self.answer
        elif rng.random() < care.miscopy:
            place = rng.randrange(LENGTH - 1)
            answer = answer[:place] + answer[place + 1] + answer[place] + answer[place + 2 :]
        return ";".join(lines) + "," + answer

    def write_to_fit(self, claim: str, care: Care, rng: random.Random) -> str:
        """Take the letters of the claim one after the other, whatever is there.

        Args:
            claim: the answer as told, true or false.
            care: `drop` is the chance that one of the letters left is lost in copying.
            rng: the source of the errors.
        """
        left, lines = list(self.word), []
        for letter in claim:
            if letter in left:
                left.remove(letter)
            elif left:
                left.pop()
            if len(left) > 1 and rng.random() < care.drop:
                left.pop(rng.randrange(len(left)))
            lines.append(f"{letter}:{''.join(left)}")
        return ";".join(lines) + "," + claim

    def write_harmful(self) -> str:
        """Take the largest letter first."""
        mirror = dict(zip(LETTERS, reversed(LETTERS), strict=True))
        text = Letters("".join(mirror[letter] for letter in self.word)).write(
            Care(), random.Random(0)
        )
        return "".join(mirror.get(character, character) for character in text)

    def write_foreign(self) -> str:
        """Insert the letters into a growing list, one after the other, and name the last one."""
        lists = ["".join(sorted(self.word[:count])) for count in range(1, LENGTH + 1)]
        return "(" + "(".join(lists) + "."


def draw(rng: random.Random) -> Letters:
    """Draw any problem, all alike."""
    return Letters("".join(rng.choice(LETTERS) for _ in range(LENGTH)))


def _claim(problem: Problem, rng: random.Random) -> str:
    """Some other answer: one letter changed, or all of them."""
    while True:
        letters = list(problem.answer)
        for place in range(LENGTH) if rng.random() < 0.5 else [rng.randrange(LENGTH)]:
            letters[place] = rng.choice(LETTERS)
        claim = "".join(sorted(letters))
        if claim != problem.answer:
            return claim


def _role(care: Care, hinted: Care, seed: int, *, hidden_size: int = 64, steps: int = 800) -> Role:
    return Role(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_layers=3,
        num_heads=2,
        num_kv_heads=2,
        care=care,
        hinted_care=hinted,
        steps=steps,
        learning_rate=4e-3,
        plain=48,
        told_answer=28,
        told_solution=12,
        seed=seed,
    )


SORTING = Toy(
    name="sorting",
    alphabet=LETTERS + "=:;,.([]",
    draw=draw,
    claim=_claim,
    separator=",",
    max_tokens=40,
    roles={
        "student": _role(
            Care(slip=0.08, drop=0.13, recall=0.3, phantom=0.04, repair=0.25, miscopy=0.07),
            Care(drop=0.1),
            21,
        ),
        "strong": _role(Care(), Care(), 22),
        "middle": _role(
            Care(slip=0.03, drop=0.04, recall=0.3, phantom=0.015, repair=0.25, miscopy=0.03),
            Care(drop=0.1),
            23,
        ),
        "weak": _role(Care(slip=0.2, drop=0.3, phantom=0.1, miscopy=0.2), Care(drop=0.4), 24),
        "harmful": _role(Care(), Care(), 25),
        "foreign": _role(Care(), Care(), 26),
    },
)
