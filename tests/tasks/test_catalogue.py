"""Names to tasks: known, unknown, one's own, and broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradalign.demo.addition import verify
from gradalign.errors import TaskError, UnknownNameError, UsageError
from gradalign.tasks import TASKS, describe, load_task
from gradalign.verifiers import get

OWN = """
from gradalign.tasks import Question


class Counting:
    description = "counts"
    verifier = "exact"
    fingerprint = "v1"

    def __init__(self, size="2", broken=""):
        self.name = "counting"
        self.size = int(size)
        self.broken = broken

    def questions(self, limit=None, ids=(), seed=0):
        rows = [Question(str(i), f"after {i}?", answer=str(i + 1)) for i in range(self.size)]
        if self.broken == "duplicate":
            rows.append(rows[0])
        if self.broken == "empty":
            rows.append(Question("e", "", answer="1"))
        if self.broken == "answer":
            rows.append(Question("n", "p"))
        if self.broken == "type":
            rows.append({"id": "d"})
        return rows[:limit]


ready = Counting()


class NoTask:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)
    return "own_tasks"


def test_own_class_and_own_object(own: str) -> None:
    task = load_task(f"{own}:Counting:size=3")
    assert task.name == "own_tasks:Counting:size=3"
    assert [question.id for question in task.questions()] == ["0", "1", "2"]
    assert (task.verifier, task.fingerprint, task.description) == ("exact", "v1", "counts")
    assert len(load_task(f"{own}:Counting").questions(1)) == 1
    assert len(load_task(f"{own}:ready").questions()) == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("duplicate", "id '0' is already that of"),
        ("empty", "question 'e': the prompt is empty"),
        ("answer", "question 'n' is a row without an answer"),
        ("type", "question 3 is of type dict"),
    ],
)
def test_own_task_with_unusable_questions(own: str, broken: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(f"{own}:Counting:broken={broken}").questions()
    if broken == "answer":
        assert len(load_task(f"{own}:Counting:broken=answer", "operator:contains").questions()) == 3


def test_things_that_are_no_tasks(own: str) -> None:
    with pytest.raises(UsageError, match="is not a task"):
        load_task(f"{own}:NoTask")
    with pytest.raises(UsageError, match="colour"):
        load_task(f"{own}:Counting:colour=red")
    with pytest.raises(UnknownNameError, match="Missing"):
        load_task(f"{own}:Missing")


@pytest.mark.parametrize("name", ["gsm9k", "nowhere:Class", "demo:subtraction"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UnknownNameError):
        load_task(name)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'gsm8k'\?.*aime24.*gpqa-diamond"):
        load_task("gsm8")


def test_file_with_another_suffix(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("x")
    with pytest.raises(UsageError, match=r"unknown suffix.*\.jsonl"):
        load_task(str(tmp_path / "q.txt"))


def test_everything_listed_has_a_description() -> None:
    records = describe()
    assert {record["name"] for record in records} == {*TASKS.names(), "FILE"}
    assert all(record["description"] and record["example"] for record in records)


def test_demo_task_is_held_out_and_carries_its_contexts() -> None:
    task = load_task("demo:addition")
    questions = task.questions()
    assert len(questions) == 64
    assert len({question.id for question in questions}) == 64
    verifier = get(task.verifier)
    for question in questions:
        a, b = map(int, question.id.split("+"))
        assert question.prompt == f"{a}+{b}="
        assert question.answer == str(a + b)
        assert set(question.contexts) == {
            "none", "answer", "solution", "wrong-answer", "other-answer", "reference-free",
            "reference-only",
        }  # fmt: skip
        told = question.contexts["other-answer"].removesuffix(question.prompt)[1:-1]
        assert told != question.answer
        assert len(told) in (
            len(question.answer),
            len(question.answer) - 1,
            len(question.answer) + 1,
        )
        assert question.contexts["reference-free"] == f"[]{a}+{b}="
        assert question.contexts["reference-only"] == f"[{a + b}]"
        assert question.contexts["answer"] == f"[{a + b}]{a}+{b}="
        assert question.contexts["wrong-answer"] != question.contexts["answer"]
        assert question.solution is not None
        assert verifier(question.solution, question) == 1.0
        assert verify(question.solution, str(a + b + 1)) == 0.0
        assert verifier("", question) == 0.0
    assert [q.id for q in task.questions(5, seed=1)] != [q.id for q in task.questions(5, seed=2)]


def test_demo_options() -> None:
    other = load_task("demo:addition:size=10,seed=3")
    assert len(other.questions()) == 10
    assert other.fingerprint != load_task("demo:addition:size=10,seed=4").fingerprint
    for options in ("size=ten", "colour=red", "size=-1"):
        with pytest.raises(UsageError, match="size and seed"):
            load_task(f"demo:addition:{options}")


def test_import_is_light() -> None:
    code = (
        "import sys; import gradalign.tasks, gradalign.contexts, gradalign.verifiers; "
        "heavy = {'torch', 'transformers', 'datasets', 'sympy', 'pyarrow', 'numpy'}; "
        "print(heavy & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
    for module in ("gradalign.verifiers", "gradalign.contexts", "gradalign.tasks.benchmarks"):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
