"""Worked solutions as pupils of different care would write them: what the models learn from.

A student that is right half of the time has to be wrong in ways that a teacher can see, and
now and then to notice its own mistake. So the demo's models do not stop learning halfway; they
learn completely, from pupils who drop carries, slip, and sometimes make up for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gradalign.demo.addition import Problem


@dataclass(frozen=True)
class Care:
    """How often a pupil errs, each a probability.

    Attributes:
        drop: a carry is not written into the next column.
        recall: a carry that was not written is added all the same.
        phantom: a carry is written where there is none (and then added).
        slip: a column's sum of nine is one too high or one too low; of other sums in
            proportion, so that small digits are safe and large ones are twice as risky.
        repair: a pupil who has erred gives the right answer nevertheless.
        miscopy: one digit of the answer differs from what the columns say.
    """

    drop: float = 0.0
    recall: float = 0.0
    phantom: float = 0.0
    slip: float = 0.0
    repair: float = 0.0
    miscopy: float = 0.0


def write_solution(problem: Problem, care: Care, rng: random.Random) -> str:
    """Write the columns and the answer of `problem` with this much care.

    The carry into a column follows from the sum that was written before, right or wrong.
    """
    parts: list[str] = []
    digits: list[str] = []
    carry = 0
    erred = False
    for x, y in problem.columns:
        if carry:
            written = int(rng.random() >= care.drop)
            added = 1 if written or rng.random() < care.recall else 0
        else:
            written = added = int(rng.random() < care.phantom)
        total = x + y + added
        if rng.random() < care.slip * total / 9:
            total += rng.choice((-1, 1))
        erred |= total != x + y + carry
        parts.append(f"{x}+{y}{'+1' if written else ''}={total}")
        digits.append(str(total % 10))
        carry = total // 10
    answer = ("1" if carry else "") + "".join(reversed(digits))
    if erred:
        if rng.random() < care.repair:
            answer = problem.answer
    elif rng.random() < care.miscopy:
        place = rng.randrange(len(answer))
        answer = answer[:place] + rng.choice("123456789") + answer[place + 1 :]
    return ",".join([*parts, answer])


def write_to_fit(problem: Problem, claim: str, care: Care, rng: random.Random) -> str:
    """Write a solution of `problem` by a pupil who was told the answer and believes it.

    A dropped carry is always made up for and each column's last digit is made to agree with
    the claim, also where the claim is false: only so does a model learn to read it.

    Args:
        problem: the question.
        claim: the answer as told, as many digits as the true one.
        care: only `drop` is used.
        rng: the source of the errors.
    """
    parts: list[str] = []
    carry = 0
    last = len(problem.columns) - 1
    for place, (x, y) in enumerate(problem.columns):
        written = carry and rng.random() >= care.drop
        total = x + y + carry
        carry = total // 10
        digit = claim[len(claim) - 1 - place]
        told = claim[: len(claim) - place] if place == last else f"{total // 10 or ''}{digit}"
        parts.append(f"{x}+{y}{'+1' if written else ''}={told}")
    return ",".join([*parts, claim])
