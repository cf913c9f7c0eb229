"""A second task for the demo's tokenizer and training script: count a letter, tallying aloud.

`a:bacaabca=` is a prompt (how many a's are there in bacaabca?) and
`b0a1c1a2a3b3c3a4,4` its reference response: every letter with the tally after it, then the
answer. It is reasoning-gym's letter counting in a notation that a tiny model can learn. Its models
are not bundled: `PYTHONPATH=benchmarks python -m validity.counting --out DIR` trains them in some
minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gradalign.demo.pupils import Care
from gradalign.demo.train import Role, export, train

logger = logging.getLogger(__name__)

LETTERS = "abc"
WORD_LENGTH = 8
MAX_RESPONSE_TOKENS = 24
"""Two tokens per letter, the comma, the answer and the end: a reference response has 19."""

_HELD_OUT_ONE_IN = 4


@dataclass(frozen=True, order=True)
class Count:
    """One counting question.

    Attributes:
        letter: what to count.
        word: where.
    """

    letter: str
    word: str

    @property
    def prompt(self) -> str:
        """The bare question."""
        return f"{self.letter}:{self.word}="

    @property
    def answer(self) -> str:
        """The count in decimal, one digit."""
        return str(self.word.count(self.letter))

    @property
    def response(self) -> str:
        """The reference solution."""
        return write_tally(self, Care(), random.Random(0))

    @property
    def wrong_answer(self) -> str:
        """A false answer, one too many or one too few, always the same for one question."""
        count = int(self.answer)
        up = count == 0 or (count < WORD_LENGTH and _hash("wrong", self) % 2 == 0)
        return str(count + 1 if up else count - 1)

    @property
    def other_answer(self) -> str:
        """The answer of another question, always the same one; never this one's."""
        others = [str(count) for count in range(WORD_LENGTH + 1) if str(count) != self.answer]
        return others[_hash("other", self) % len(others)]

    @property
    def is_held_out(self) -> bool:
        """Whether the question is kept from training."""
        return _hash("split", self) % _HELD_OUT_ONE_IN == 0


CONTEXTS = ("none", "answer", "solution", "wrong-answer", "other-answer", "reference-free")


def context_prompt(problem: Count, context: str) -> str:
    """Return the prompt of a problem in one of `CONTEXTS`."""
    hint = {
        "answer": problem.answer,
        "solution": problem.response,
        "wrong-answer": problem.wrong_answer,
        "other-answer": problem.other_answer,
        "reference-free": "",
    }
    return problem.prompt if context == "none" else f"[{hint[context]}]{problem.prompt}"


def write_tally(problem: Count, care: Care, rng: random.Random) -> str:
    """Write a tally with this much care.

    Args:
        problem: the question.
        care: `drop` is the chance that a letter is not counted, `recall` that a later one makes
            up for it, `phantom` that another letter is counted, `repair` that the answer is right
            although the tally is not, `miscopy` that it is another one than the tally says.
        rng: the source of the errors.
    """
    parts: list[str] = []
    tally = missed = 0
    for letter in problem.word:
        if letter == problem.letter:
            if rng.random() < care.drop:
                missed += 1
            else:
                tally += 1
                if missed and rng.random() < care.recall:
                    tally, missed = tally + 1, missed - 1
        elif rng.random() < care.phantom:
            tally += 1
        tally = min(tally, 9)
        parts.append(f"{letter}{tally}")
    answer = str(tally)
    if answer != problem.answer:
        if rng.random() < care.repair:
            answer = problem.answer
    elif rng.random() < care.miscopy:
        answer = str(max(0, tally + rng.choice((-1, 1))))
    return "".join(parts) + "," + answer


def write_to_fit(problem: Count, claim: str, care: Care, rng: random.Random) -> str:
    """Write a tally by a pupil who was told the answer and believes it: it ends at the claim.

    Args:
        problem: the question.
        claim: the answer as told, true or false.
        care: only `drop` is used; what was dropped is made up for at the last letter.
        rng: the source of the errors.
    """
    parts: list[str] = []
    tally = 0
    for place, letter in enumerate(problem.word):
        if letter == problem.letter and rng.random() >= care.drop:
            tally = min(tally + 1, int(claim))
        if place == len(problem.word) - 1:
            tally = int(claim)
        parts.append(f"{letter}{tally}")
    return "".join(parts) + "," + claim


def draw_problem(rng: random.Random, *, held_out: bool) -> Count:
    """Draw one problem from one side of the split, letter and word uniform."""
    while True:
        word = "".join(rng.choice(LETTERS) for _ in range(WORD_LENGTH))
        problem = Count(rng.choice(LETTERS), word)
        if problem.is_held_out == held_out:
            return problem


def generate(count: int, *, seed: int, held_out: bool = True) -> list[Count]:
    """Draw `count` different problems (at most 4,000 of the 19,683 there are)."""
    if not 0 <= count <= 4000:
        raise ValueError(f"count must lie in 0..4000, got {count}")
    rng = random.Random(seed)
    drawn: dict[Count, None] = {}
    while len(drawn) < count:
        drawn.setdefault(draw_problem(rng, held_out=held_out))
    return list(drawn)


def training_rows(role: Role, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Yield, for ever, one step's (prompt, response) rows, as `gradalign.demo.train` takes them."""
    while True:
        rows: list[tuple[str, str]] = []
        for _ in range(role.plain):
            problem = draw_problem(rng, held_out=False)
            rows.append((problem.prompt, write_tally(problem, role.care, rng)))
        for told in (role.told_answer, role.told_solution):
            for _ in range(told):
                problem = draw_problem(rng, held_out=False)
                claim = problem.answer
                if rng.random() < role.false_share:
                    claim = str(max(0, int(claim) + rng.choice((-2, -1, 1, 2))))
                if told is role.told_answer:
                    hint, care = claim, role.hinted_care
                else:
                    hint, care = write_to_fit(problem, claim, Care(), rng), Care()
                response = write_to_fit(problem, claim, care, rng)
                rows.append((f"[{hint}]{problem.prompt}", response))
        yield rows


def _role(care: Care, hinted_care: Care, seed: int, *, hidden_size: int = 48) -> Role:
    return Role(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        care=care,
        hinted_care=hinted_care,
        steps=700,
        learning_rate=6e-3,
        plain=40,
        told_answer=32,
        told_solution=12,
        seed=seed,
    )


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "student": _role(
            Care(drop=0.22, recall=0.3, phantom=0.03, repair=0.25, miscopy=0.04), Care(drop=0.1), 11
        ),
        "strong": _role(Care(), Care(), 12),
        "middle": _role(
            Care(drop=0.06, recall=0.3, phantom=0.015, repair=0.25, miscopy=0.02),
            Care(drop=0.1),
            13,
        ),
        "weak": _role(Care(drop=0.75, phantom=0.1, miscopy=0.3), Care(drop=0.5), 14),
    }
)
"""The models of this task by name."""


def _hash(purpose: str, problem: Count) -> int:
    text = "\x00".join([purpose, problem.letter, problem.word])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")


def main(arguments: list[str] | None = None) -> None:
    """Train the chosen models and write each to a folder of its own under `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m validity.counting", description="Train the models of the second task."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the models to")
    parser.add_argument("--role", choices=[*ROLES, "all"], default="all", help="which to train")
    parser.add_argument("--steps", type=int, default=None, help="instead of the role's own number")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ROLES if options.role == "all" else [options.role]:
        model = train(ROLES[name], steps=options.steps, log_every=100, rows=training_rows)
        export(model, options.out / name)
        logger.info("%s: written to %s", name, options.out / name)


if __name__ == "__main__":
    main()
