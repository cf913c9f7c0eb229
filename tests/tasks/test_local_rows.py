"""`path=` gives what the named file holds now, whatever its name and its time stamp."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gradalign.errors import TaskError, UsageError
from gradalign.tasks import load_task
from tests.requires import needs

needs("datasets", "math_verify")
pd = pytest.importorskip("pandas")

STAMP = (1_000_000_000, 1_000_000_000)


def rows(*answers: int) -> list[dict[str, object]]:
    return [{"question": f"Which number is {n}?", "answer": f"It is #### {n}"} for n in answers]


def write(path: Path, content: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(content).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(content).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    os.utime(path, STAMP)
    return path


def answers(path: object, options: str = "") -> list[str]:
    questions = load_task(f"gsm8k:path={path}{options}").questions()
    return sorted(question.answer or "" for question in questions)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_other_content_under_the_same_name_size_and_time(tmp_path, suffix):
    path = tmp_path / f"asked{suffix}"
    write(path, rows(11, 12))
    before, size = load_task(f"gsm8k:path={path}").fingerprint, path.stat().st_size
    assert answers(path) == ["11", "12"]
    write(path, rows(21, 22))
    assert abs(path.stat().st_size - size) <= 1  # compression
    assert answers(path) == ["21", "22"]
    assert load_task(f"gsm8k:path={path}").fingerprint != before


def test_a_folder_with_other_content_of_the_same_time(tmp_path):
    folder = tmp_path / "copy[1]*"
    for content in (rows(11, 12), rows(21, 22)):
        write(folder / "main" / "test-00000-of-00001.jsonl", content)
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: main\n  data_files:\n"
            "  - split: test\n    path: main/test-*\n---\n"
        )
        os.utime(folder, STAMP)
        assert answers(folder) == sorted(str(row["answer"])[-2:] for row in content)


NAMES = [
    "test[1]",
    "te?t",
    "te*t",
    "{a,b}",
    "a, b = c",
    "~nobody",
    "a b%20c#d",
    "x::y",
    " blanks",
    "[!a]",
    "memory",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_name_is_no_pattern(tmp_path, monkeypatch, name, suffix):
    monkeypatch.chdir(tmp_path)
    for sibling in ("test1", "test", "teest", "a", "b", "b,c"):
        write(tmp_path / f"{sibling}{suffix}", rows(13))
    write(tmp_path / f"{name}{suffix}", rows(17))
    assert answers(f"{name}{suffix}") == ["17"]
    assert answers(f"{name}{suffix}", ",format=raw") == ["17"]


def test_the_file_that_a_pattern_would_find_is_not_it(tmp_path):
    write(tmp_path / "test1.jsonl", rows(13))
    with pytest.raises(TaskError, match=r"test\[1\]\.jsonl does not exist"):
        answers(tmp_path / "test[1].jsonl")


def test_questions_files_of_such_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[1].jsonl", "~nobody.jsonl", "a::b.jsonl", "*.jsonl"):
        Path(name).write_text(json.dumps({"id": name, "prompt": "?", "answer": "1"}) + "\n")
        assert [question.id for question in load_task(name).questions()] == [name]


def test_a_home_in_front_of_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "asked.jsonl", rows(3))
    assert answers("~/asked.jsonl") == ["3"]


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "a?", "answer": "#### 1"}',
        '{"question": "a?", "answer": "#### 1"}\n{"question": "b?", "answer": "#### 2"}\n',
        '[{"question": "a?", "answer": "#### 1"},\n {"question": "b?", "answer": "#### 2"}]',
        '{\n "question": ["a?", "b?"],\n "answer": ["#### 1", "#### 2"]\n}',
        '\ufeff{\n "question": "a?",\n "answer": "#### 1"\n}\n',
    ],
)
def test_the_shapes_of_a_json_file(tmp_path, text):
    path = tmp_path / "asked.json"
    path.write_text(text)
    assert answers(path) == ["1", "2"][: 1 + ("b?" in text)]


def test_a_csv_file_is_text(tmp_path):
    path = tmp_path / "asked.csv"
    path.write_text('ID,Problem,Answer\r\n007,"Two lines,\nand a comma?",010\r\n8,NA,46\r\n')
    found = {q.id: q for q in load_task(f"aime24:path={path}").questions()}
    assert {name: question.answer for name, question in found.items()} == {"007": "10", "8": "46"}
    assert found["007"].prompt[0].content.startswith("Two lines,\nand a comma?\n")
    path.write_text("passage,question,answer\np,is it so,True\np,is it not,False\n")
    assert sorted(q.answer for q in load_task(f"boolq:path={path}").questions()) == ["no", "yes"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "question,answer\nx\n", "row 1 has fewer fields"),
        ("a.csv", "question,answer\nx,y,z\n", "row 1 has more fields"),
        ("a.csv", "", "holds no rows"),
        ("a.jsonl", "\n\n", "holds no rows"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '{"question":\n}\n', "malformed JSON"),
        ("a.jsonl", "[1]\n", "is not an object"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=rf"task gsm8k: .*{name}.*{words}"):
        answers(tmp_path / name)


def test_a_column_that_some_rows_lack(tmp_path):
    path = tmp_path / "asked.jsonl"
    extra = [{**rows(1)[0], "note": "x"}, rows(2)[0]]
    write(path, extra)
    assert answers(path) == ["1", "2"]


def test_a_path_given_twice():
    with pytest.raises(UsageError, match="twice"):
        load_task("gsm8k:path=a.jsonl,path=b.jsonl")
