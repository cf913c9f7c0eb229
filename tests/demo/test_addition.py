"""The task: reference solutions, false answers, the verifier, the split."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.demo import MODEL_NAMES, model_path
from gradalign.demo.addition import (
    CONTEXTS,
    MAX_RESPONSE_TOKENS,
    Problem,
    context_prompt,
    generate,
    verify,
)
from gradalign.errors import UnknownNameError, UsageError


def problems():
    return st.integers(2, 3).flatmap(
        lambda n: st.builds(Problem, *[st.integers(10 ** (n - 1), 10**n - 1) for _ in ("a", "b")])
    )


def test_worked_example():
    problem = Problem(358, 967)
    assert problem.prompt == "358+967="
    assert problem.response == "8+7=15,5+6+1=12,3+9+1=13,1325"
    assert problem.answer == "1325"
    assert context_prompt(problem, "none") == "358+967="
    assert context_prompt(problem, "answer") == "[1325]358+967="
    assert context_prompt(problem, "solution") == f"[{problem.response}]358+967="
    assert context_prompt(problem, "wrong-answer") == f"[{problem.wrong_answer}]358+967="


@given(problems())
def test_every_step_of_the_reference_solution_is_true(problem):
    *columns, answer = problem.response.split(",")
    assert int(answer) == problem.a + problem.b
    carry = 0
    for place, column in enumerate(columns):
        left, _, total = column.partition("=")
        terms = [int(term) for term in left.split("+")]
        assert terms[0] == problem.a // 10**place % 10
        assert terms[1] == problem.b // 10**place % 10
        assert sum(terms[2:]) == carry
        assert sum(terms) == int(total)
        carry = int(total) // 10
    assert verify(problem.response, problem.answer) == 1.0
    assert len(problem.response) + 1 <= MAX_RESPONSE_TOKENS


@given(problems())
def test_the_wrong_answer_is_wrong_plausible_and_fixed(problem):
    wrong = problem.wrong_answer
    assert wrong == Problem(problem.a, problem.b).wrong_answer
    assert re.fullmatch(r"[1-9]\d*", wrong)
    assert len(wrong) == len(problem.answer)
    assert all(x != y for x, y in zip(wrong, problem.answer, strict=True))
    assert verify(problem.response.rpartition(",")[0] + "," + wrong, problem.answer) == 0.0


@pytest.mark.parametrize(
    "text", ["", "1325", "8+7=15,", "8+7=15,01325", "8+7=15,1325,", "8+7=15,132", "x,13251325"]
)
def test_verifier_refuses(text):
    assert verify(text, "1325") == 0.0


def test_held_out_problems_never_train():
    held_out = generate(3000, seed=0)
    training = generate(20_000, seed=0, held_out=False)
    assert all(p.is_held_out for p in held_out)
    seen = {frozenset((p.a, p.b)) for p in training}
    assert not seen & {frozenset((p.a, p.b)) for p in held_out}
    share = sum(Problem(a, b).is_held_out for a in range(100, 200) for b in range(200, 300)) / 1e4
    assert share == pytest.approx(1 / 8, abs=0.015)


def test_generation_is_seeded_distinct_and_nested():
    first = generate(500, seed=3)
    assert len(set(first)) == 500
    assert generate(200, seed=3) == first[:200]
    assert generate(500, seed=4) != first


def test_bad_arguments():
    with pytest.raises(UsageError, match="60000"):
        generate(60_000, seed=0)
    with pytest.raises(UsageError, match="equal length"):
        Problem(9, 10)
    with pytest.raises(UnknownNameError, match="wrong-answer") as caught:
        context_prompt(Problem(10, 10), "feedback")
    assert all(name in str(caught.value) for name in CONTEXTS)


def test_model_path():
    for name in MODEL_NAMES:
        assert (model_path(name) / "config.json").is_file()
    with pytest.raises(UnknownNameError, match="student, strong, weak"):
        model_path("large")


def test_the_task_needs_no_torch():
    code = (
        "import sys; from gradalign.demo import addition, model_path; model_path('weak');"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
