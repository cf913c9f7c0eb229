"""Procedural tasks with their own scorers, in this process and in the pool's."""

from __future__ import annotations

import pytest

from gradalign.errors import TaskError, UnknownNameError, UsageError
from gradalign.reasoning_gym_data import names
from gradalign.tasks import Message, Question, load_task
from gradalign.tasks.reasoning_gym import INSTRUCTION
from gradalign.verifiers import VerifierPool, get
from gradalign.verifiers.reasoning_gym import last_answer
from tests.requires import needs

needs("reasoning_gym")

# Arithmetic, strings, a scorer with part marks, a puzzle with many solutions, logic, a grid.
SEVERAL = ["chain_sum", "spell_backward", "countdown", "knights_knaves", "mini_sudoku", "gcd"]


@pytest.mark.parametrize("name", SEVERAL)
def test_gold_answers_win_and_others_do_not(name: str) -> None:
    task = load_task(f"reasoning_gym:{name}:size=5,seed=2")
    verify = get(task.verifier)
    questions = task.questions()
    assert len(questions) == 5
    for question in questions:
        assert isinstance(question.prompt, tuple)
        (message,) = question.prompt
        assert message.content.endswith(f"\n\n{INSTRUCTION}")
        gold = question.answer
        responses = {
            f"Let me see.\n<answer>{gold}</answer>": 1.0,
            f"<answer>none of it</answer> no, <answer> {gold}\n</answer>": 1.0,
            f"It is {gold}.": 0.0,
            f"<answer>{gold}": 0.0,
            "": 0.0,
        }
        assert {text: verify(text, question) for text in responses} == responses
        assert verify(f"<answer>{gold}</answer> no, <answer>none of it</answer>", question) < 1.0


def test_scorers_of_their_own_accept_what_is_not_the_gold_answer() -> None:
    (question,) = load_task("reasoning_gym:countdown:size=1,seed=2").questions()
    verify = get("reasoning_gym:countdown:size=1,seed=2")
    assert verify(f"<answer>({question.answer}) + 0 * 1</answer>", question) < 1.0
    assert verify(f"<answer>({question.answer})</answer>", question) == 1.0


def test_same_spec_same_questions_and_other_seed_other_questions() -> None:
    spec = "reasoning_gym:chain_sum:size=8,seed=1"
    assert load_task(spec).questions() == load_task(spec).questions()
    assert load_task(spec).fingerprint == load_task(spec).fingerprint
    other = load_task("reasoning_gym:chain_sum:size=8,seed=2")
    assert other.questions() != load_task(spec).questions()
    assert other.fingerprint != load_task(spec).fingerprint
    default = load_task("reasoning_gym:chain_sum")
    assert len(default.questions()) == 100
    assert default.questions() == load_task("reasoning_gym:chain_sum").questions()


def test_options_reach_the_generator() -> None:
    (question,) = load_task("reasoning_gym:chain_sum:size=1,min_terms=6,max_terms=6").questions()
    assert question.metadata["entry"]["metadata"]["num_terms"] == 6  # type: ignore[index]


def test_pool_scores_with_the_entries_of_the_generator() -> None:
    spec = "reasoning_gym:mini_sudoku:size=4,seed=5"
    questions = load_task(spec).questions()
    items = [(f"<answer>{question.answer}</answer>", question) for question in questions]
    with VerifierPool(spec, num_workers=1, timeout_seconds=20) as pool:
        verdicts = pool.score([*items, ("no idea", questions[0])])
    assert [verdict.reward for verdict in verdicts] == [1.0] * 4 + [0.0]
    assert not pool.failures


def test_a_worked_answer_is_the_solution() -> None:
    task = load_task("reasoning_gym:gsm_symbolic:size=6,seed=1")
    verify = get(task.verifier)
    for question in task.questions():
        worked = question.metadata["entry"]["metadata"]["answer_cot"]  # type: ignore[index, call-overload]
        steps, end = str(question.solution).rsplit("\n", 1)
        assert steps in worked
        assert len(steps) > len(worked) / 2
        assert end == f"<answer>{question.answer}</answer>"
        assert verify(str(question.solution), question) == 1.0
    assert load_task("reasoning_gym:chain_sum:size=1").questions()[0].solution is None


def test_stored_entry_is_used_where_the_generator_gives_another() -> None:
    spec = "reasoning_gym:chain_sum:size=2,seed=1"
    question = load_task(spec).questions(ids=["0"])[0]
    entry = {**question.metadata["entry"], "question": "1 + 1 =", "answer": "2"}  # type: ignore[dict-item]
    changed = Question("0", "?", answer="2", metadata={"index": 0, "entry": entry})
    assert get(spec)("<answer>2</answer>", changed) == 1.0


def test_questions_of_another_task_are_refused() -> None:
    with pytest.raises(TaskError, match="does not come from"):
        get("reasoning_gym:chain_sum")("<answer>1</answer>", Question("a", "p", answer="1"))


def test_unknown_tasks_and_options() -> None:
    assert len(names()) > 50
    with pytest.raises(UnknownNameError, match=r"Did you mean 'chain_sum'"):
        load_task("reasoning_gym:chain_sums")
    with pytest.raises(UsageError, match="colour"):
        load_task("reasoning_gym:chain_sum:colour=red").questions()
    with pytest.raises(UsageError, match="size 'many'"):
        load_task("reasoning_gym:chain_sum:size=many")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>1</answer>", "1"),
        ("<answer>1</answer><answer>\n2 </answer>", "2"),
        ("<answer>1</answer><answer>2", None),
        ("1", None),
        ("<answer></answer>", ""),
        ("<think><answer>1</answer></think> <answer>2</answer>", "2"),
        ("<think><answer>1</answer></think> 2", None),
        ("<think><answer>1</answer>", None),
    ],
)
def test_last_answer(text: str, answer: str | None) -> None:
    assert last_answer(text) == answer


def test_prompt_is_one_user_message() -> None:
    (question,) = load_task("reasoning_gym:gcd:size=1").questions()
    assert isinstance(question.prompt, tuple)
    assert [type(message) for message in question.prompt] == [Message]
