"""The pupils err as often as asked, and in the ways they are meant to."""

import random

from gradalign.demo.addition import generate, verify
from gradalign.demo.pupils import Care, write_solution, write_to_fit

PROBLEMS = generate(400, seed=11)


def test_a_careful_pupil_writes_the_reference():
    rng = random.Random(0)
    assert all(write_solution(p, Care(), rng) == p.response for p in PROBLEMS)
    assert all(write_to_fit(p, p.answer, Care(), rng) == p.response for p in PROBLEMS)


def test_a_pupil_who_always_drops_carries_adds_without_them():
    rng = random.Random(0)
    for p in PROBLEMS:
        text = write_solution(p, Care(drop=1.0), rng)
        assert all(column.count("+") == 1 for column in text.split(",")[:-1])
        inner = [x + y for x, y in p.columns[:-1]]
        if any(total >= 10 for total in inner):
            assert verify(text, p.answer) == 0.0
        else:
            assert text == p.response


def test_recall_and_repair_make_up_for_dropped_carries():
    rng = random.Random(0)
    for care in (Care(drop=1.0, recall=1.0), Care(drop=1.0, repair=1.0)):
        assert all(verify(write_solution(p, care, rng), p.answer) == 1.0 for p in PROBLEMS)


def test_error_rates_are_those_asked_for():
    rng = random.Random(0)
    carry_in = [p for p in PROBLEMS if len(p.columns) == 2 and sum(p.columns[0]) >= 10]
    dropped = [
        write_solution(p, Care(drop=0.3), rng).split(",")[1].count("+") == 1
        for p in carry_in
        for _ in range(100)
    ]
    assert abs(sum(dropped) / len(dropped) - 0.3) < 0.03
    miscopied = [not verify(write_solution(p, Care(miscopy=0.9), rng), p.answer) for p in PROBLEMS]
    # One digit in nine or so is replaced by itself.
    assert 0.7 < sum(miscopied) / len(miscopied) < 0.9


def test_a_pupil_who_believes_a_false_answer_ends_with_it():
    rng = random.Random(0)
    for p in PROBLEMS:
        text = write_to_fit(p, p.wrong_answer, Care(drop=0.5), rng)
        *columns, answer = text.split(",")
        assert answer == p.wrong_answer
        last = columns[-1].partition("=")[2]
        ones = [column[-1] for column in columns[:-1]]
        assert last + "".join(reversed(ones)) == p.wrong_answer
