"""The named benchmarks on rows in the hub's schemas: prompts, answers, verdicts, errors."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradalign.errors import MissingDependencyError, TaskError, UsageError
from gradalign.questions import Message
from gradalign.tasks import Question, load_task
from gradalign.tasks.benchmarks import BENCHMARKS
from gradalign.verifiers import get
from tests.requires import needs, require
from tests.tasks import hub_rows as rows
from tests.tasks.local_hub import COMMITS, serve

datasets = require("datasets")
needs("math_verify")

BOX = "\n\nThink step by step and end with the final answer inside \\boxed{}."
LETTER = (
    '\n\nThink step by step and end with a line "Answer: X", where X is the letter of your choice.'
)
YES_NO = '\n\nThink step by step and end with a line "Answer: yes" or "Answer: no".'

DATA: dict[str, rows.Rows] = {
    "gsm8k": rows.GSM8K,
    "math": rows.MATH,
    "aime24": rows.AIME24,
    "aime25": rows.AIME25,
    "mmlu": rows.MMLU,
    "boolq": rows.BOOLQ,
    "gpqa-diamond": rows.GPQA,
    "deepmath": rows.DEEPMATH,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, data: rows.Rows) -> Path:
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(data, features=_features(data)).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(data[0]))
            writer.writeheader()
            writer.writerows(data)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def _features(data: rows.Rows) -> Any:
    """MMLU's answer is a class label on the hub; the rest is what it looks like."""
    features = datasets.Dataset.from_list(data).features
    if "choices" in data[0]:
        features["answer"] = datasets.ClassLabel(names=["A", "B", "C", "D"])
    return features


def load(name: str, path: Path, options: str = "") -> list[Question]:
    """Questions in the order of the file."""
    found = load_task(f"{name}:path={path}{options}").questions()
    order = {question.id: question for question in found}
    key = BENCHMARKS[name].id_columns
    column = next((item for item in key if item in DATA[name][0]), None)
    ids = [str(row[column] if column else i) for i, row in enumerate(DATA[name])]
    return [order[identifier] for identifier in ids]


def text(question: Question) -> str:
    assert isinstance(question.prompt, tuple)
    (message,) = question.prompt
    assert message.role == "user"
    return message.content


PROMPTS = {
    "gsm8k": "Ada has 3 stamps and buys 4 more. How many stamps has she now?" + BOX,
    "math": "What is half of one?" + BOX,
    "aime24": "Find the remainder when $7^3$ is divided by $1000$." + BOX,
    "aime25": "Find the sum of the first $3$ odd numbers." + BOX,
    "mmlu": "Which number is 0 plus one?\n\nA) 0\nB) 1\nC) 2\nD) 3" + LETTER,
    "boolq": "Even numbers are multiples of two. This passage is about 0.\n\n"
    "Question: is 0 an even number?" + YES_NO,
    "deepmath": "Evaluate the limit of $(1+0/n)^n$ as $n$ grows." + BOX,
}

ANSWERS = {
    "gsm8k": ["7", "19", "1000", "99", "4100", "2", "72", "5", "100", "21"],
    "math": [row["answer"] for row in rows.MATH],
    "aime24": ["343", "512", "729", "0", "331", "728", "197", "744", "375", "96"],
    "aime25": ["9", "16", "25", "36", "49", "64", "81", "100", "121", "144"],
    "mmlu": ["B", "A", "D", "C", "B", "A", "D", "C", "B", "A"],
    "boolq": ["yes", "no"] * 5,
    "deepmath": ["1", "e", *(f"e^{{{index}}}" for index in range(2, 10))],
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_prompts_and_answers(name: str, suffix: str, tmp_path: Path) -> None:
    questions = load(name, write(tmp_path / f"rows{suffix}", DATA[name]))
    assert text(questions[0]) == PROMPTS[name]
    assert [question.answer for question in questions] == ANSWERS[name]
    verifier = get(BENCHMARKS[name].verifier)
    for question in questions:
        verifier.check(question)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_gpqa_options_are_shuffled_the_same_way_every_time(suffix: str, tmp_path: Path) -> None:
    questions = load("gpqa-diamond", write(tmp_path / f"rows{suffix}", rows.GPQA))
    for index, question in enumerate(questions):
        letter = question.answer or ""
        assert question.choices["ABCD".index(letter)] == f"particle number {index}"
        assert set(question.choices) == {f"particle number {index + step}" for step in range(4)}
        listed = "\n".join(f"{a}) {b}" for a, b in zip("ABCD", question.choices, strict=True))
        asked = f"Which particle has the charge {index} in units of e?"
        assert text(question) == f"{asked}\n\n{listed}{LETTER}"
        assert question.solution == f"Count to {index}."
    letters = [question.answer for question in questions]
    assert len(set(letters)) > 1
    assert letters == ["B", "B", "B", "C", "B", "B", "C", "B", "B", "A"]


def test_gold_solutions(tmp_path: Path) -> None:
    (first, *_) = load("gsm8k", write(tmp_path / "g.jsonl", rows.GSM8K))
    assert first.solution == "She adds the two: 3 + 4 = 7 stamps.\n\\boxed{7}"
    assert get("math")(first.solution, first) == 1.0
    for name in ("math", "aime24"):
        for question in load(name, write(tmp_path / f"{name}.jsonl", DATA[name])):
            assert question.solution
            assert get("math")(question.solution, question) == 1.0
    (deep, *_) = load("deepmath", write(tmp_path / "d.jsonl", rows.DEEPMATH))
    assert deep.solution == "First way, power 0."
    assert deep.metadata["topic"] == "Mathematics -> Calculus -> Limits"
    (aime, *_) = load("aime25", write(tmp_path / "a.jsonl", rows.AIME25))
    assert aime.solution is None


NOTATIONS = {
    "gsm8k": [
        "7.0",
        "019",
        "1,000",
        "99.00",
        "4{,}100",
        "\\$2",
        "72\\text{ stamps}",
        "+5",
        "10^2",
        "\uff12\uff11",
    ],
    "math": [
        "0.5",
        "(x+1)^2",
        "(3,\\pi/2)",
        "\\sqrt{12}",
        "Evelyn",
        "90",
        "2,-2",
        "\\left(0, 1\\right]",
        "-q+p",
        "10,001",
    ],
    "aime24": [
        "343.0",
        "0512",
        "27^2",
        "000",
        "x=331",
        "728",
        "\\frac{394}{2}",
        "\\text{744}",
        "3\\cdot 125",
        "96",
    ],
    "aime25": [
        "3^2",
        "16.0",
        "\\sqrt{625}",
        "36",
        "7\\times 7",
        "2^6",
        "81",
        "10^{2}",
        "11^2",
        "\\text{144}",
    ],
    "deepmath": [
        "1.0",
        "e^1",
        "e\\cdot e",
        "e^3",
        "(e^2)^2",
        "e^{5}",
        "\\exp(6)",
        "e^{7.0}",
        "e^{16/2}",
        "e^{3^2}",
    ],
}


@pytest.mark.parametrize("name", sorted(NOTATIONS))
def test_verdicts_on_boxed_answers(name: str, tmp_path: Path) -> None:
    verify = get("math:boxed")
    questions = load(name, write(tmp_path / "rows.jsonl", DATA[name]))
    for question, notation, other in zip(
        questions, NOTATIONS[name], [*questions[1:], questions[0]], strict=True
    ):
        right, wrong = question.answer, other.answer
        assert right != wrong
        verdicts = {
            f"Clearly \\boxed{{{right}}}.": 1.0,
            f"Clearly $\\boxed{{{notation}}}$.": 1.0,
            f"Clearly \\boxed{{{wrong}}}.": 0.0,
            f"Clearly {right}.": 0.0,
            "I do not know.": 0.0,
            "": 0.0,
            f"First \\boxed{{{wrong}}}, then \\boxed{{{right}}}.": 1.0,
            f"First \\boxed{{{right}}}, then \\boxed{{{wrong}}}.": 0.0,
            f"Clearly \\boxed{{{right}"[:-1]: 0.0,
            f"First \\boxed{{{right}}}, or no, \\boxed{{": 0.0,
        }
        assert {response: verify(response, question) for response in verdicts} == verdicts


@pytest.mark.parametrize("name", ["mmlu", "boolq", "gpqa-diamond"])
def test_verdicts_on_choices(name: str, tmp_path: Path) -> None:
    verify = get("choice")
    for question in load(name, write(tmp_path / "rows.jsonl", DATA[name])):
        right = question.answer or ""
        gold = question.choices["ABCD".index(right)] if len(right) == 1 else right
        wrong_text = next(item for item in question.choices if item != gold)
        wrong = "ABCD"[question.choices.index(wrong_text)] if len(right) == 1 else wrong_text
        verdicts = {
            f"Because.\nAnswer: {right}": 1.0,
            f"Because.\n**Answer: {gold}**": 1.0,
            f"The answer is \\boxed{{\\text{{{right}}}}}.": 1.0,
            f"Because.\nAnswer: {wrong}": 0.0,
            f"Because.\nAnswer: {wrong_text}": 0.0,
            "I cannot tell.": 0.0,
            "": 0.0,
            f"Answer: {wrong}\nOn reflection:\nAnswer: {right}": 1.0,
            f"Answer: {right}\nOn reflection:\nAnswer: {wrong}": 0.0,
            "Because of this, I would say\nAnswer:": 0.0,
        }
        assert {response: verify(response, question) for response in verdicts} == verdicts


def test_other_spellings_of_the_columns(tmp_path: Path) -> None:
    found = load_task(f"aime24:path={write(tmp_path / 'r.parquet', rows.AIME24_OTHER)}").questions()
    answers = {question.id: question.answer for question in found}
    assert answers["2024-I-63"] == "0"
    assert len(answers) == 10
    letters = [{**row, "answer": "ABCD"[row["answer"]]} for row in rows.MMLU]
    found = load_task(f"mmlu:path={write(tmp_path / 'l.jsonl', letters)}").questions()
    assert sorted(q.answer or "" for q in found) == sorted(ANSWERS["mmlu"])


def test_raw_format_is_a_string_that_the_response_continues(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", rows.GSM8K)
    (question,) = load_task(f"gsm8k:path={path},format=raw").questions(ids=["0"])
    assert question.prompt == PROMPTS["gsm8k"] + "\n\n"


def test_order_limit_and_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", rows.GSM8K)
    task = load_task(f"gsm8k:path={path}")
    every = [question.id for question in task.questions(seed=3)]
    assert sorted(every, key=int) == [str(index) for index in range(10)]
    assert [question.id for question in task.questions(4, seed=3)] == every[:4]
    assert [question.id for question in task.questions(seed=4)] != every
    assert [question.id for question in task.questions(ids=["7", "2"])] == ["7", "2"]
    assert task.fingerprint.startswith("sha256:")
    with pytest.raises(TaskError, match="has no question '10'"):
        task.questions(ids=["10"])


def test_only_the_rows_that_are_asked_for_are_converted(tmp_path: Path) -> None:
    broken = [*rows.GSM8K, {"question": "?", "answer": "no number"}]
    task = load_task(f"gsm8k:path={write(tmp_path / 'r.jsonl', broken)}")
    assert len(task.questions(ids=["0", "9"])) == 2
    with pytest.raises(TaskError, match=r"row 11 has no '#### N'"):
        task.questions(ids=["10"])


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"problem": "?", "answer": "#### 1"}, "no column 'question'"),
        ("gsm8k", {"question": " ", "answer": "#### 1"}, "no text in 'question'"),
        ("gsm8k", {"question": "?", "answer": "1 ####"}, "no '#### N'"),
        ("math", {"problem": "?", "answer": None}, "row without an answer"),
        ("math", {"problem": "?", "answer": float("nan")}, "nan"),
        ("mmlu", {"question": "?", "choices": ["a"], "answer": 0}, "no list of choices"),
        ("mmlu", {"question": "?", "choices": ["a", "b"], "answer": 2}, "answer 2"),
        ("boolq", {"question": "?", "passage": "p", "answer": "maybe"}, "answer 'maybe'"),
        ("gpqa-diamond", {"Question": "?", "Correct Answer": "a"}, "'Incorrect Answer 1'"),
    ],
)
def test_rows_of_another_schema(
    name: str, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.parquet"
    datasets.Dataset.from_list([row]).to_parquet(path)
    with pytest.raises(TaskError, match=message):
        load_task(f"{name}:path={path}").questions()


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [rows.AIME24[0], rows.AIME24[1], rows.AIME24[0]])
    with pytest.raises(TaskError, match=r"row 3: id '60' is already that of row 1"):
        load_task(f"aime24:path={path}").questions()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("path=missing.jsonl", TaskError, "missing.jsonl does not exist"),
        ("colour=red", UsageError, "no option 'colour'"),
        ("format=html", UsageError, "chat or raw"),
        ("path=a.jsonl,revision=main", UsageError, "no revision"),
        ("path", UsageError, "has no value"),
    ],
)
def test_unusable_options(options: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_task(f"gsm8k:{options}").questions()


def test_unreadable_files(tmp_path: Path) -> None:
    for name in ("r.parquet", "r.jsonl", "r.txt"):
        (tmp_path / name).write_text("{not a table")
        with pytest.raises(TaskError, match="task gsm8k"):
            load_task(f"gsm8k:path={tmp_path / name}").questions()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"gradalign\[tasks\]"):
        load_task("gsm8k")
    with pytest.raises(MissingDependencyError, match=r"gradalign\[tasks\]"):
        get("math")


CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
---
"""


def _copy_of_the_repository(folder: Path, first: int) -> None:
    (folder / "main").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    write(folder / "main" / "test-00000-of-00001.parquet", rows.GSM8K[first : first + 2])
    write(folder / "main" / "train-00000-of-00001.parquet", rows.GSM8K[first + 2 : first + 5])


def test_folder_with_a_copy_of_the_repository(tmp_path: Path) -> None:
    _copy_of_the_repository(tmp_path / "gsm8k", 0)
    task = load_task(f"gsm8k:path={tmp_path / 'gsm8k'}")
    assert sorted(question.answer or "" for question in task.questions()) == ["19", "7"]
    train = load_task(f"gsm8k:path={tmp_path / 'gsm8k'},split=train")
    assert len(train.questions()) == 3
    assert task.fingerprint.startswith("folder:sha256:")
    assert train.fingerprint != task.fingerprint
    with pytest.raises(TaskError, match="validation"):
        load_task(f"gsm8k:path={tmp_path / 'gsm8k'},split=validation").questions()


SCRIPT = """
import json, sys
from gradalign.errors import GradalignError
from gradalign.tasks import load_task
for spec in sys.argv[1:]:
    try:
        task = load_task(spec)
        answers = sorted(question.answer for question in task.questions())
        print(json.dumps([answers, task.fingerprint]))
    except GradalignError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def _ask(address: str, home: Path, *specs: str) -> list[list[Any]]:
    """Load tasks in a process that takes `address` for the hub."""
    hub = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *specs],
        env={**os.environ, **hub},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_download_is_pinned_and_then_works_offline(tmp_path: Path) -> None:
    _copy_of_the_repository(tmp_path / "hub" / "v1", 5)
    _copy_of_the_repository(tmp_path / "hub" / "main", 0)
    home = tmp_path / "home"
    with serve(tmp_path / "hub", "openai/gsm8k") as (address, log):
        one, missing_revision, missing_repository, main = _ask(
            address, home, "gsm8k:revision=v1", "gsm8k:revision=v9", "math", "gsm8k"
        )
    assert one == [["2", "72"], f"openai/gsm8k@{COMMITS['v1']}"]
    assert main == [["19", "7"], f"openai/gsm8k@{COMMITS['main']}"]
    assert missing_revision[0] == "TaskError"
    assert "has no revision v9" in missing_revision[1]
    assert "does not show HuggingFaceH4/MATH-500" in missing_repository[1]

    # Every file was asked for at the commit, none at the branch.
    files = [line for line in log if "/resolve/" in line]
    assert files
    assert all(f"/resolve/{COMMITS['main']}/" in f or COMMITS["v1"] in f for f in files)

    cached, uncached, other = _ask(address, home, "gsm8k", "math", f"gsm8k:revision={'c' * 40}")
    assert cached == main
    assert uncached[0] == "TaskError"
    assert "is not in the cache and the hub cannot be reached" in uncached[1]
    assert "math:path=FILE" in uncached[1]
    assert f"at {COMMITS['main']}, not at {'c' * 40}" in other[1]


@pytest.mark.slow
def test_gated_repository_says_how_to_get_in(tmp_path: Path) -> None:
    (tmp_path / "hub" / "main").mkdir(parents=True)
    write(tmp_path / "hub" / "main" / "gpqa_diamond.csv", rows.GPQA)
    with serve(tmp_path / "hub", "Idavidrein/gpqa", gated=True) as (address, _):
        ((kind, text),) = _ask(address, tmp_path / "home", "gpqa-diamond")
    assert kind == "TaskError"
    assert "Idavidrein/gpqa is gated on the hub. Accept its terms" in text
    assert "hf auth login" in text
    assert "gpqa-diamond:path=FILE" in text


def test_every_named_task_is_here() -> None:
    assert set(BENCHMARKS) == set(DATA)
    for name in BENCHMARKS:
        task = load_task(name)
        assert task.verifier in ("math", "choice")
        assert task.description


def test_message_is_what_the_chat_template_gets(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", rows.GSM8K)
    (question,) = load_task(f"gsm8k:path={path}").questions(ids=["0"])
    assert question.prompt == (Message("user", PROMPTS["gsm8k"]),)
